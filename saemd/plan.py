"""Say what a training command would cost, before anything runs: tokens, FLOPs, bytes and time.

    saemd plan -m init=mirror,uniform seed=24,42    # what saemd train with the same words would do
    saemd plan --no-measure tokens=16_000_000       # without times
    saemd plan -m experiment=paper init=mirror,uniform seed=24,42 --tflops=400 --disk-gbps=2    # for another machine

Times come from a measurement of about 20 seconds on this machine, or from rates: --tflops (10¹² FLOP/s), of which
--efficiency (0.3) is reached, and --disk-gbps (0.5; 10⁹ bytes/s). Where this machine has no GPU, accelerator=gpu is
planned with --tflops, or for the workers of hydra/launcher=slurm|ray, then without times. Nothing is fetched or
written, but for finished runs of a run_root in a store. The exit code is 2 where something does not fit, with a line on
each.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saemd.cli import entry
from saemd.composition import compose_all, is_sweep
from saemd.config import Config
from saemd.errors import UserError, bad_value
from saemd.launchers import find_launcher
from saemd.remote.store import check_store
from saemd.remote.urls import CACHE_ROOT, url_of
from saemd.runs import fetch_runs

NUMBERS = ("--tflops", "--disk-gbps", "--efficiency")
NO_MEASURE = "--no-measure"


@dataclass(frozen=True)
class Request:
    """The command's own flags, and the jobs of the training command."""

    configs: list[Config]
    is_sweep: bool
    measures: bool
    numbers: dict[str, float]
    is_remote: bool  # a launcher's workers compute, on other machines


def parse(arguments: Sequence[str]) -> Request:
    """Take the flags out, and compose the rest as `saemd train` does. Raises `UserError`."""
    words, numbers, measures = [], {}, True
    left = iter(arguments)
    for word in left:
        flag, equals, value = word.partition("=")
        if word == NO_MEASURE:
            measures = False
        elif flag in NUMBERS:
            numbers[flag] = _number(flag, value if equals else next(left, ""))
        elif word.startswith("--") and word != "--multirun":
            raise UserError(f"{word}: the flags are {', '.join((*NUMBERS, NO_MEASURE))}; keys are key=value")
        else:
            words.append(word)
    if numbers.get("--efficiency", 1.0) > 1:
        raise bad_value("--efficiency", numbers["--efficiency"], "use a share of the rate, from above 0 to 1")
    if "--efficiency" in numbers and "--tflops" not in numbers:
        raise bad_value("--efficiency", numbers["--efficiency"], "a share of --tflops; give both, or neither")
    configs = compose_all(words)
    launcher = find_launcher(words, configs)
    return Request(configs, is_sweep(words), measures, numbers, launcher is not None and launcher.is_remote)


def _number(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise bad_value(flag, text, "use a positive number")
    return value


def plan(request: Request) -> list[str]:
    """Print the plan; returns a line for each thing that does not fit."""
    import torch

    from saemd.planning import costs, estimate, fit
    from saemd.planning.measure import device_of, dtype_of
    from saemd.planning.table import print_plan
    from saemd.planning.work import find_work
    from saemd.preflight import check_inputs, check_settings
    from saemd.threads import use_threads

    check_settings(request.configs)
    for run_root in {config.run_root for config in request.configs}:
        fetch_runs(Path(run_root))
    for cache_root in {config.cache_root for config in request.configs}:
        if url := url_of(Path(cache_root)):
            check_store(CACHE_ROOT, url, writes=False)
    numbers = request.numbers
    check_inputs(request.configs, on_this_machine=not (request.is_remote or "--tflops" in numbers))
    lacks_gpu = device_of(request.configs[0]) == "cuda" and not torch.cuda.is_available()
    measures = request.measures and not lacks_gpu
    use_threads(request.configs[0].threads)
    work = find_work(request.configs, request.is_sweep)
    rates = estimate.Rates(
        numbers["--tflops"] * 1e12 if "--tflops" in numbers else None,
        numbers.get("--efficiency", estimate.EFFICIENCY),
        numbers.get("--disk-gbps", estimate.DISK_GBPS) * 1e9,
    )
    disk = list(costs.disk(work.harvests, work.jobs))
    is_chosen = request.configs[0].activations.lm_dtype != "auto"  # else it depends on what is faster
    bytes_each = dtype_of(request.configs[0]).itemsize if measures or is_chosen else costs.FLOAT
    wrong = list(fit.misfits(work, disk, bytes_each, on_this_machine=not (request.is_remote or lacks_gpu)))
    if rates.flops:
        times, how = estimate.by_rates(work, rates), (
            f"Times: estimates by {rates.flops / 1e12:g} TFLOP/s, of which {rates.efficiency:.0%} are reached, and "
            f"{rates.disk / 1e9:g} GB/s of disk. What follows no such rate, as the comparison, is left open."
        )  # fmt: skip
    elif measures:
        times, how = estimate.measured(work, rates), (
            "Times: from short samples on this machine, beside what else runs on it now; without fetching, W&B, and "
            f"the {estimate.STARTING:.0f} seconds or so in which the program is loaded."
        )  # fmt: skip
    else:
        why = "this machine has no GPU; --tflops gives the rate of one" if lacks_gpu else NO_MEASURE
        times, how = estimate.unknown(work), f"Times: not measured, {why}."
    print_plan(work, times, disk, *fit.memory(work, bytes_each), how)
    return wrong


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    wrong = plan(parse(arguments))
    for line in wrong:
        print(f"does not fit this machine: {line}", file=sys.stderr)
    return 2 if wrong else 0


if __name__ == "__main__":
    entry(main)
