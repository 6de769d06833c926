"""Seconds of the whole work: from small samples on this machine, or from another machine's rates."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from saemd.activations.disk.shards import disk_bytes
from saemd.planning.costs import harvest_flops, run_bytes, training_flops
from saemd.planning.measure import activations, device_of, harvest_seconds, matching_seconds
from saemd.planning.trial import Start, StepSeconds, make_start, time_steps
from saemd.planning.work import Comparison, Harvest, Job, Work
from saemd.progress import bar
from saemd.training.stack.grouping import stack_size, stacks

SECONDS = 16.0  # of measuring, shared by the parts that are still to be done; loading the model comes on top
SHARES = {"harvest": 0.35, "training": 0.45, "comparison": 0.2}
DISK_GBPS = 0.5  # written or read, where nothing else is said
EFFICIENCY = 0.3  # share of a GPU's rate that both the language model and an SAE of the paper's size reach
STARTING = 15.0  # seconds in which a command imports what it needs, which are not counted
DRAWING = (0.8, 0.3)  # seconds once, and for each pair: figures and the report
_SAMPLE_TOKENS = 8192


@dataclass(frozen=True)
class Rates:
    """Another machine: its rate in FLOP/s, the share of it that is reached, and its disk in bytes/s."""

    flops: float | None = None
    efficiency: float = EFFICIENCY
    disk: float = DISK_GBPS * 1e9


@dataclass(frozen=True)
class Times:
    """Seconds by part, in the order of `Work`; None where a part's time is not known."""

    harvests: list[float | None]
    jobs: list[float | None]
    comparisons: list[float | None]

    @property
    def known(self) -> float:
        """Seconds of all parts whose time is known."""
        return sum(part for part in (*self.harvests, *self.jobs, *self.comparisons) if part is not None)

    @property
    def is_complete(self) -> bool:
        return None not in (*self.harvests, *self.jobs, *self.comparisons)


def unknown(work: Work) -> Times:
    return Times([None] * len(work.harvests), [None] * len(work.jobs), [None] * len(work.comparisons))


def by_rates(work: Work, rates: Rates) -> Times:
    """FLOPs / (efficiency · rate), or what the disk takes where that is longer; comparisons stay unknown."""
    assert rates.flops is not None
    speed = rates.efficiency * rates.flops
    harvests = [max(harvest_flops(h) / speed, _writing(h, rates)) for h in work.harvests]
    jobs = [0.0 if job.is_finished else max(training_flops(job) / speed, _reading(job, rates)) for job in work.jobs]
    return Times([*harvests], [*jobs], [None if c.pairs else 0.0 for c in work.comparisons])


def measured(work: Work, rates: Rates, seconds: float = SECONDS) -> Times:
    """From samples of at most about `seconds` in all, on this machine as it is now, with what else runs on it."""
    to_harvest = [harvest for harvest in work.harvests if harvest.left]
    wanted = {"harvest": bool(to_harvest), "training": bool(work.todo), "comparison": any_pairs(work)}
    total = sum(SHARES[part] for part, is_wanted in wanted.items() if is_wanted)
    share = {part: seconds * SHARES[part] / total for part, is_wanted in wanted.items() if is_wanted}
    with bar("measuring", total=None) as progress:
        sampled: Tensor | None = None
        harvests: list[float | None] = [0.0] * len(work.harvests)
        if to_harvest:
            progress.note("passes of the language model")
            harvests, sampled = _harvest_times(work.harvests, to_harvest, share["harvest"], rates)
        progress.note("training steps")
        jobs = _job_times(work.jobs, sampled, share.get("training", 0.0), rates)
        progress.note("a matching")
        comparisons: list[float | None] = [_comparison_time(comparison) for comparison in work.comparisons]
    return Times(harvests, jobs, comparisons)


def any_pairs(work: Work) -> bool:
    return any(comparison.pairs for comparison in work.comparisons)


def _harvest_times(
    harvests: list[Harvest], to_harvest: list[Harvest], seconds: float, rates: Rates
) -> tuple[list[float | None], Tensor]:
    """The deepest layer is measured, the others follow by their FLOPs. Also returns activations of it."""
    deepest = max(to_harvest, key=lambda harvest: harvest_flops(harvest) / harvest.contexts)
    sample = harvest_seconds(deepest, seconds)
    per_flop = sample.per_context * deepest.contexts / harvest_flops(deepest)
    times: list[float | None] = []
    for harvest in harvests:
        passes = harvest_flops(harvest) * per_flop + (sample.once if harvest.left else 0.0)
        times.append(passes + _writing(harvest, rates))
    return times, sample.made


def _job_times(jobs: list[Job], sampled: Tensor | None, seconds: float, rates: Rates) -> list[float | None]:
    """Steps are timed once for each shape, recipe and size of a stack, and L0's course is foretold for each start."""
    sizes = _stack_sizes(jobs)
    shapes = {(_shape(job), size) for job, size in zip(jobs, sizes, strict=True) if not job.is_finished}
    starts: dict[str, Start] = {}
    steps: dict[tuple[str, int], StepSeconds] = {}
    for job, size in sorted(zip(jobs, sizes, strict=True), key=lambda each: each[0].config.l0):  # the lowest L0 is
        if job.is_finished:  # timed, and with it all above
            continue
        shape, kind = (_shape(job), size), _kind(job)
        if kind not in starts or shape not in steps:
            x_ND = _activations(job, sampled)
            starts[kind], module = make_start(job, x_ND)
            if shape not in steps:
                device = device_of(job.config)
                steps[shape] = time_steps(job, starts[kind], module, x_ND, device, seconds / len(shapes), size)
    return [
        0.0 if job.is_finished else _job_time(job, starts[_kind(job)], steps[_shape(job), size], rates)
        for job, size in zip(jobs, sizes, strict=True)
    ]


def _stack_sizes(jobs: list[Job]) -> list[int]:
    """How many SAEs each job is trained with, itself included."""
    configs = [dataclasses.replace(job.config, together=_together(job)) for job in jobs]
    done = {id(config): job.done for config, job in zip(configs, jobs, strict=True)}
    todo = [config for config, job in zip(configs, jobs, strict=True) if not job.is_finished]
    size = {id(config): len(part) for part in stacks(todo, lambda config: done[id(config)]) for config in part}
    return [size.get(id(config), 1) for config in configs]


def _together(job: Job) -> int:
    if job.config.together != "auto":
        assert isinstance(job.config.together, int)
        return job.config.together
    return stack_size(job.config) if device_of(job.config) == "cuda" and job.harvest.model.has_weights else 1


def _activations(job: Job, sampled: Tensor | None) -> Tensor:
    if sampled is not None and sampled.shape[1] == job.harvest.d_in and len(sampled) >= job.config.batch_size:
        return sampled
    return activations(job.harvest, max(_SAMPLE_TOKENS, job.config.batch_size))


def _job_time(job: Job, start: Start, steps: StepSeconds, rates: Rates) -> float:
    training = float(steps.at(start.course(job.done, job.config.l0)).sum())
    batches = -(-job.config.activations.heldout_tokens // job.config.batch_size)
    saving = run_bytes(job) / rates.disk
    return start.seconds + steps.once + max(training, _reading(job, rates)) + batches * steps.held_out + saving


def _writing(harvest: Harvest, rates: Rates) -> float:
    return disk_bytes(harvest.left, harvest.d_in) / rates.disk if harvest.source == "cache" else 0.0


def _reading(job: Job, rates: Rates) -> float:
    return disk_bytes(job.tokens_left, job.harvest.d_in) / rates.disk if job.harvest.source == "cache" else 0.0


def _comparison_time(comparison: Comparison) -> float:
    if not comparison.pairs:
        return 0.0
    matchings = comparison.matchings * matching_seconds(comparison.d_in, comparison.d_sae)
    return matchings + DRAWING[0] + DRAWING[1] * comparison.pairs


def _shape(job: Job) -> str:
    """What a step's time depends on, but for L0."""
    config = job.config
    return repr((config.sae, config.recipe, config.batch_size, job.harvest.d_in, job.d_sae, config.accelerator))


def _kind(job: Job) -> str:
    """What the course of L0 depends on, but for its target; without the model's weights every start is uniform."""
    init = job.config.init if job.harvest.model.has_weights else None
    return repr((_shape(job), init, job.harvest.model.config, job.config.layer, job.steps))
