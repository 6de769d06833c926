"""What a command has to do: activations to harvest, SAEs to train, pairs of seeds to compare; and what is done already.

Files are read, none is written, and nothing is fetched, but for the manifests of caches in a store.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from saemd.activations.disk.manifest import MANIFEST, Origin, read_manifest, read_progress
from saemd.activations.disk.remote import fetch_records
from saemd.activations.harvest.open import cache_folder, dtype_name, lm_device
from saemd.activations.harvest.reuse import find_other
from saemd.activations.harvest.sharding import group_contexts
from saemd.activations.registry import describe_source
from saemd.config import Config, width
from saemd.errors import bad_value
from saemd.planning.model import LanguageModel, describe
from saemd.runs import CHECKPOINT, METRICS, SEED_KEYS, Run, find_runs, identify, refuse_another, run_dir
from saemd.runs.identity import common
from saemd.sae.starts import INITS
from saemd.stability.pairs import stored
from saemd.stability.siblings import siblings
from saemd.training import record
from saemd.training.given import model_shape


@dataclass(frozen=True)
class Harvest:
    """The activations that some jobs share. `tokens` are asked for, held-out ones included; `done` are on disk."""

    config: Config  # of the first of these jobs
    model: LanguageModel
    tokens: int
    done: int
    is_needed: bool  # an unfinished job reads them
    folder: Path | None  # of the cache; None without one, or as long as the model is not here to name it
    source: str = "cache"  # the name of their source: cache, memory, online

    @property
    def left(self) -> int:
        return self.tokens - self.done if self.is_needed else 0

    @property
    def contexts(self) -> int:
        """Contexts that hold the tokens left: each loses its BOS, and about one in a hundred tokens as EOS."""
        return -(-self.left // (self.config.activations.context_length - self.model.kept_per_context))

    @property
    def d_in(self) -> int:
        return self.model.d_model


@dataclass(frozen=True)
class Job:
    """One SAE. `done` of its `steps` are behind it."""

    config: Config
    harvest: Harvest
    d_sae: int
    steps: int
    done: int
    is_finished: bool
    siblings: str  # what seeds have in common

    @property
    def left(self) -> int:
        return self.steps - self.done

    @property
    def tokens_left(self) -> int:
        return self.left * self.config.batch_size


@dataclass(frozen=True)
class Comparison:
    """Pairs of seeds of one shape, below one run root, that are still to be matched."""

    run_root: Path
    d_in: int
    d_sae: int
    pairs: int
    has_floor: bool  # the random floor of this shape is known already

    @property
    def matchings(self) -> int:
        """Two a pair, by encoder and by decoder, and one for the floor."""
        return 2 * self.pairs + (not self.has_floor and self.pairs > 0)


@dataclass(frozen=True)
class Work:
    harvests: list[Harvest]
    jobs: list[Job]
    comparisons: list[Comparison]

    @property
    def todo(self) -> list[Job]:
        return [job for job in self.jobs if not job.is_finished]


def find_work(configs: Sequence[Config], is_sweep: bool) -> Work:
    """The work of these jobs. Raises `UserError` for what `saemd train` would refuse."""
    models: dict[str, LanguageModel] = {}
    groups: dict[str, list[tuple[Config, Origin | None, bool]]] = {}  # by activations
    for config in configs:
        name = repr((config.lm, config.cache_root))
        model = models[name] = models.get(name) or describe(config.lm, Path(config.cache_root))
        _check_model(config, model)
        if model.folder is None:
            key, origin, is_finished = _asked_for(config), None, (run_dir(config) / METRICS).is_file()
        else:
            here = dataclasses.replace(config, lm=model.local)
            origin = dataclasses.replace(_origin(here), lm=config.lm.name)
            key, is_finished = f"{_source(config)} {origin.fingerprint}", record.finished(here) is not None
        groups.setdefault(key, []).append((config, origin, is_finished))
    harvests, jobs = [], []
    for group in groups.values():
        config, origin, _ = group[0]
        model = models[repr((config.lm, config.cache_root))]
        unfinished = sum(not is_finished for _, _, is_finished in group)
        harvest = _harvest(config, model, origin, unfinished)
        harvests.append(harvest)
        jobs += [_job(config, harvest, origin, is_finished) for config, origin, is_finished in group]
    return Work(harvests, jobs, _comparisons(jobs, is_sweep))


def _asked_for(config: Config) -> str:
    """What decides a model's activations, as text, where the model is not here to be identified."""
    parts = (config.lm, config.layer, config.corpus, config.activations, config.cache_root)
    return repr(parts)


def _source(config: Config) -> str:
    """The name of the source of activations; the cache on disk has none in its configuration."""
    return getattr(config.activations, "name", "cache")


def _origin(config: Config) -> Origin:
    return describe_source(config.lm, config.layer, config.corpus, config.activations, Path(config.cache_root))


def _check_model(config: Config, model: LanguageModel) -> None:
    """What the model's shape decides. Raises `UserError`."""
    if config.layer >= model.n_layers:
        raise bad_value("layer", config.layer, f"{config.lm.name} has layers 0 to {model.n_layers - 1}")
    INITS[config.init.name].check(config.init, model_shape(config, model), width(config, model.mlp_width))


def _harvest(config: Config, model: LanguageModel, origin: Origin | None, unfinished: int) -> Harvest:
    source = _source(config)
    passes = unfinished if source == "online" else 1  # there, each job harvests for itself
    wanted = config.activations.tokens * passes + config.activations.heldout_tokens
    if origin is None or source != "cache":
        return Harvest(config, model, wanted, 0, unfinished > 0, None, source)
    folder, done = cache_folder(origin, Path(config.cache_root)), 0
    fetch_records(folder)
    if (folder / MANIFEST).is_file():
        done = wanted = sum(split.tokens for split in read_manifest(folder).splits.values())  # the text may be shorter
    elif progress := read_progress(folder):
        done = sum(split.tokens for split in progress.splits.values())
    else:
        dtype = dtype_name(config.activations.lm_dtype, lm_device(config.accelerator))
        other = find_other(folder, origin, dtype, group_contexts(config.activations))
        done = other.tokens() if other else 0
    return Harvest(config, model, wanted, done, unfinished > 0, folder, source)


def _job(config: Config, harvest: Harvest, origin: Origin | None, is_finished: bool) -> Job:
    steps, done = config.tokens // config.batch_size, 0
    if is_finished:
        done = steps
    elif (run_dir(config) / CHECKPOINT).is_file():
        from saemd.training.checkpoints import step_of  # and with it Lightning, which a fresh sweep does not need

        if origin is not None:
            refuse_another(run_dir(config), identify(config, origin))
        done = step_of(run_dir(config))
    return Job(
        config, harvest, width(config, harvest.model.mlp_width), steps, done, is_finished, _siblings(config, origin)
    )


def _siblings(config: Config, origin: Origin | None) -> str:
    """Equal for jobs that differ in nothing but their seeds."""
    if origin is not None:
        return identify(config, origin)["sibling_fingerprint"]
    whole = dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, part=None))
    return json.dumps(common(dataclasses.asdict(config), _asked_for(whole)), sort_keys=True)


def _comparisons(jobs: list[Job], is_sweep: bool) -> list[Comparison]:
    """A sweep matches all pairs below its run roots, a single job the pairs that it is in itself."""
    comparisons = []
    for run_root in sorted({job.config.run_root for job in jobs}):
        root = Path(run_root)
        runs = find_runs(root)[0] if root.is_dir() else []
        todo = [job for job in jobs if job.config.run_root == run_root and not job.is_finished]
        pairs = [(one.harvest.d_in, one.d_sae) for one, _ in combinations(todo, 2) if _are_siblings(one, _)]
        for job in todo:
            pairs += [(run.d_in, run.d_sae) for run in runs if _is_sibling(job, run)]
        if is_sweep:
            found = siblings(runs)[0]
            pairs += [(pair.a.d_in, pair.a.d_sae) for pair in found if stored(root / "stability", pair) is None]
        for shape in sorted({*pairs}):
            floor = root / "stability" / "floors" / f"n={shape[1]}_d={shape[0]}.json"
            comparisons.append(Comparison(root, *shape, pairs.count(shape), floor.is_file()))
    return comparisons


def _are_siblings(a: Job, b: Job) -> bool:
    return (a.siblings, a.config.init.label, a.config.l0) == (b.siblings, b.config.init.label, b.config.l0) and _seeds(
        a.config
    ) != _seeds(b.config)


def _is_sibling(job: Job, run: Run) -> bool:
    same = (job.siblings, job.config.init.label, job.config.l0)
    return same == (run.saved["sibling_fingerprint"], run.init, run.l0) and _seeds(job.config) != run.seeds


def _seeds(config: Config) -> tuple[Any, ...]:
    return (config.seed, *(getattr(config, key) for key in SEED_KEYS))
