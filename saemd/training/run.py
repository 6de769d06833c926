"""One training job: from a checked configuration to a finished run directory. Called again, it goes on or is read."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as pl
import torch
from lightning.pytorch.loggers import Logger

from saemd.activations.datamodule import ActivationDataModule
from saemd.activations.memory.open import resident
from saemd.activations.registry import open_source
from saemd.activations.source import Source
from saemd.config import Config
from saemd.logging import finish, log_summary, make_logger, run_id
from saemd.ranks import Ranks
from saemd.remote.mirror import sync
from saemd.runs import CHECKPOINT, METRICS, HeldError, fetch_run, held, read_metrics, refuse_another, run_dir, run_name
from saemd.runs.files import write_config
from saemd.sae import build
from saemd.sae.starts.base import digest
from saemd.threads import use_threads
from saemd.training import record
from saemd.training.callbacks import SaveRun
from saemd.training.checkpoints import SafeCheckpoints, step_of
from saemd.training.devices import join, training_device
from saemd.training.fit import fit
from saemd.training.given import sources_of
from saemd.training.module import SAETraining
from saemd.training.resampling import Resampling
from saemd.training.snapshots import Snapshots


@dataclass(frozen=True)
class Job:
    """A run that is about to be trained: its directory, what `config.yaml` will say, and its module at step 0."""

    config: Config
    folder: Path
    about: dict[str, Any]
    source: Source
    module: SAETraining
    ranks: Ranks  # this process among those of the job


def train(config: Config, callbacks: Sequence[pl.Callback] = ()) -> dict[str, Any]:
    """Train, measure and save one SAE; returns `metrics.json`'s content. A finished run is read, not repeated.

    `callbacks` act after those that write the run's files. Raises `UserError` where the directory holds a run of
    another configuration, before anything is written. With several devices each of their processes calls it, and the
    files are the first one's.
    """
    if (metrics := record.finished(config)) is not None:
        return metrics
    job = prepare(config)
    ranks = job.ranks
    stream = job.source.stream(config.batch_size, config.tokens, config.data_seed, ranks.rank, ranks.world)
    data = ActivationDataModule(stream, job.source.heldout(config.batch_size))
    with opened(job) as logger:
        at_end = [SaveRun(config, job.folder), *callbacks]
        has_begun = step_of(job.folder, job.module) > 0
        fit(
            job.module, data, config, run_name(config), job.folder / CHECKPOINT, has_begun, at_end, SafeCheckpoints(),
            logger, [Snapshots([config])], ranks, [Resampling([config])],
        )  # fmt: skip
        metrics = read_metrics(job.folder)
        log_summary(logger, metrics)
    del job, stream, data, at_end
    gc.collect()  # trainer, module and callbacks hold each other
    return metrics


def prepare(config: Config) -> Job:
    """Open the activations and build the SAE. Raises `UserError` where the directory holds another run."""
    opened_source = open_activations(config)
    ranks, batch = join(config)
    torch.set_flush_denormal(True)  # Adam's second moment of sparse gradients decays into denormals: slow on a CPU
    source = resident(opened_source, training_device(config))
    folder, about = run_dir(config), record.describe(config, source)
    refuse_another(folder, about)
    module = make_module(config, source)
    module.sae.batch = batch
    about["start"] = {name: digest(getattr(module.sae, name)) for name in ("W_dec", "W_enc")}
    return Job(config, folder, about, source, module, ranks)


def open_activations(config: Config) -> Source:
    """The run's source, for which the language model runs first where nothing is cached."""
    use_threads(config.threads)
    return open_source(
        config.lm, config.layer, config.corpus, config.activations, Path(config.cache_root),
        accelerator=config.accelerator,
    )  # fmt: skip


@contextmanager
def opened(job: Job, failed: Callable[[], bool] = lambda: False) -> Iterator[Logger | None]:
    """Hold the run's directory, write its configuration, and keep its logger open; None where nothing is logged.

    The logger ends with an exit code of 1 where an error passes through, or `failed()` at the end.
    """
    if job.ranks.rank:  # the first process does it for all
        yield None
        return
    with held(job.folder):
        fetch_run(job.folder)  # another machine may have been here since this job was looked at
        if (job.folder / METRICS).is_file():
            raise HeldError(f"{job.folder}: another process has just finished this run; the same command reads it")
        write_config(job.folder, job.about)
        logger = open_logger(job.config, job.folder, job.about)
        try:
            yield logger
        except BaseException:
            finish(logger, 1)
            raise
        finish(logger, int(failed()))
        sync(job.folder)  # what loggers wrote


def make_module(config: Config, source: Source) -> SAETraining:
    """The module at step 0."""
    sae = build(config.init, config.sae, sources_of(config, source), target_l0=config.l0, scale=source.scale)
    return SAETraining(sae, config.recipe, steps=config.tokens // config.batch_size, mean_D=source.mean)


def open_logger(config: Config, folder: Path, about: dict[str, Any]) -> Logger | None:
    """The run's logger; None where nothing is to be logged."""
    name, group = run_name(config), Path(config.run_root).name
    identity = run_id(group, name, about["fingerprint"])
    logger = make_logger(
        config.logger, folder, group=group, run_name=name, run_id=identity, resolved_config=about["config"]
    )
    return logger or None
