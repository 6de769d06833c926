"""Training jobs: from checked configurations to finished run directories. Called again, they go on or are read.

A run alone is a group of one: there is one way to train, and it ends in the same files.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from saemd.activations.cache import ActivationCache
from saemd.activations.datamodule import ActivationDataModule
from saemd.activations.harvest import ensure_cache
from saemd.config import Config
from saemd.errors import bad_value
from saemd.lm.load import lm_info
from saemd.lm.weights import read_mlp_decoder
from saemd.logging import finish, log_summary, make_logger, run_id, run_name
from saemd.sae import LossFunction, Sources, build, make_loss
from saemd.threads import use_threads
from saemd.training import record
from saemd.training.callbacks import CompareSiblings, ProgressBar, SaveRun, TimedCheckpoint
from saemd.training.checkpoints import CHECKPOINT, RunCheckpoints, step_of
from saemd.training.module import SAETraining
from saemd.training.together import Together

SAMPLE_TOKENS = 16_384  # cached activations an initialisation may look at

Outcome = dict[str, Any] | Exception  # `metrics.json`'s content, or what ended the run
Tell = Callable[[Config, Outcome], None]


@dataclass
class Run:
    """A run that is ready to train: its directory, its logger (None: nothing is logged), the step it stands at."""

    config: Config
    folder: Path
    module: SAETraining
    logger: Logger | None
    step: int
    open: bool = True  # the logger is


def train(config: Config) -> dict[str, Any]:
    """Train, measure and save one SAE; returns `metrics.json`'s content. A finished run is read, not repeated.

    Raises `UserError` where the directory holds a run of another configuration, before anything is written.
    """
    (outcome,) = train_together([config])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def train_together(configs: list[Config], tell: Tell = lambda config, outcome: None) -> list[Outcome]:
    """As `train`, for one of `saemd.training.groups`; an error ends its own job and leaves the others be.

    Returns the outcomes in the jobs' order; `tell` hears of each as soon as it is known. Runs that stand at different
    steps, as a kill may leave them, cannot share batches and train after one another.
    """
    known: dict[Path, Outcome] = {}

    def settle(config: Config, outcome: Outcome) -> None:
        known[record.run_dir(config)] = outcome
        tell(config, outcome)

    for config in configs:
        if (found := _attempt(record.finished, config)) is not None:
            settle(config, found)
    if todo := [config for config in configs if record.run_dir(config) not in known]:
        _train(todo, settle)
        gc.collect()  # trainer, module and callbacks hold each other
    return [known[record.run_dir(config)] for config in configs]


def _train(configs: list[Config], settle: Tell) -> None:
    config = configs[0]  # for the keys that a group shares
    use_threads(config.threads)
    rank_zero_only.rank = 0  # a job is one process, also where a scheduler numbers its tasks (RANK, SLURM_PROCID)
    torch.set_flush_denormal(True)  # Adam's second moment of sparse gradients decays into denormals: slow on a CPU
    try:
        root, on = Path(config.cache_root), config.accelerator
        cache = ensure_cache(config.lm, config.layer, config.corpus, config.activations, root, accelerator=on)
        data = _data(config, cache)
    except Exception as error:
        for config in configs:
            settle(config, error)
        return
    runs: list[Run] = []
    losses = {fast: make_loss(fast) for fast in (False, True)}
    starts: dict[str, Tensor] = {}
    with ExitStack() as locks:
        try:
            for config in configs:
                run = _attempt(_prepare, config, cache, losses[config.recipe.fast], starts, locks)
                if isinstance(run, Run):
                    runs.append(run)
                else:
                    settle(config, run)
            for step in sorted({run.step for run in runs}, reverse=True):
                _fit([run for run in runs if run.step == step], data, settle)
        finally:
            for run in runs:
                if run.open and (error := _attempt(finish, run.logger, 1)):
                    settle(run.config, error)


def _attempt(act: Callable[..., Any], *args: Any) -> Any:
    """What `act` returns, or the exception that it raises."""
    try:
        return act(*args)
    except Exception as error:
        return error


def _prepare(
    config: Config, cache: ActivationCache, loss: LossFunction, starts: dict[str, Tensor], locks: ExitStack
) -> Run:
    """Everything up to the first step. `starts`: the group's starting weights; equal ones are kept once."""
    folder = record.run_dir(config)
    about = record.describe(config, cache)
    record.refuse_another(folder, about)
    module = _module(config, cache, loss)
    about["start"] = {name: record.digest(getattr(module.sae, name)) for name in ("W_dec", "W_enc")}
    for name, start in (("W_dec", "start_dec"), ("W_enc", "start_enc")):  # by name too: one latent's are the same bytes
        setattr(module, start, starts.setdefault(name + about["start"][name], getattr(module, start)))
    locks.enter_context(record.held(folder))
    record.write_config(folder, about)
    name, group = run_name(config.init.label, config.l0, config.seed), Path(config.run_root).name
    identity, step = run_id(group, name, about["fingerprint"]), step_of(folder, module)
    logger = make_logger(
        config.logger, folder, group=group, run_name=name, run_id=identity, resolved_config=about["config"]
    )
    module.logs_to = [logger] if logger else []
    return Run(config, folder, module, logger or None, step)


def _module(config: Config, cache: ActivationCache, loss: LossFunction) -> SAETraining:
    def mlp_decoder():
        mlp = read_mlp_decoder(config.lm, Path(config.cache_root), config.layer)
        return mlp.weight, mlp.post_norm_scale

    d_sae = config.d_sae or 2 * lm_info(config.lm, Path(config.cache_root)).mlp_width
    if config.l0 > d_sae:
        raise bad_value("l0", config.l0, f"the target L0 cannot exceed d_sae={d_sae}")
    sources = Sources(cache.d_in, d_sae, mlp_decoder, lambda: cache.sample(SAMPLE_TOKENS) / cache.scale)
    sae = build(config.init, sources, seed=config.init_seed, scale=cache.scale, bias=config.recipe.bias)  # type: ignore[arg-type]
    steps = config.tokens // config.batch_size
    return SAETraining(sae, config.recipe, target_l0=config.l0, steps=steps, mean_D=cache.mean, loss=loss)


def _data(config: Config, cache: ActivationCache) -> ActivationDataModule:
    return ActivationDataModule(
        cache,
        batch_size=config.batch_size,
        tokens=config.tokens,
        seed=config.data_seed,
        window_tokens=config.activations.window_tokens,
        prefetch_batches=config.activations.prefetch_batches,
    )


def _fit(runs: list[Run], data: ActivationDataModule, settle: Tell) -> None:
    """Train runs that stand at the same step, and settle each."""
    run_of = {run.module: run for run in runs}
    together = Together(list(run_of), on_failure=lambda member, error: settle(run_of[member].config, error))
    lost: Exception | None = None
    try:
        _through_lightning(together, runs, data)
    except Exception as error:  # of what the runs share, or the last one's own
        lost = error
    for run in runs:
        if run.module not in together.failed:
            settle(run.config, lost or _attempt(_conclude, run))


def _conclude(run: Run) -> dict[str, Any]:
    metrics = json.loads((run.folder / record.METRICS).read_text())
    log_summary(run.logger, metrics)
    run.open = False
    finish(run.logger, 0)
    return metrics


def _through_lightning(together: Together, runs: list[Run], data: ActivationDataModule) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # which devices it found, and advertisements
    config = runs[0].config
    steps = together.members[0].schedules.steps
    own = [
        callback
        for run in runs
        for callback in (
            SaveRun(run.config, run.folder, run.module), CompareSiblings(run.folder, run.module, run.logger),
        )
    ]  # fmt: skip
    trainer = pl.Trainer(
        accelerator=config.accelerator,
        devices=1,
        max_epochs=1,
        max_steps=steps,  # given outright: Lightning's estimate would restart a resumed run at its first batch
        logger=False,  # each run has its own
        callbacks=[
            ProgressBar(_name(runs), steps, config.batch_size),
            TimedCheckpoint(config.checkpoint_minutes),
            *own,
        ],
        plugins=[LightningEnvironment(), RunCheckpoints(together, {run.module: run.folder for run in runs})],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(together, datamodule=data, ckpt_path=CHECKPOINT if runs[0].step else None)
        if trainer.received_sigterm:  # in the last step
            raise KeyboardInterrupt
        assert trainer.global_step == steps, f"{trainer.global_step} of {steps} steps"
        if any(run.module.held_out is None and run.module not in together.failed for run in runs):
            trainer.validate(together, datamodule=data, verbose=False)  # the checkpoint was that of the last step
    except SystemExit:  # Lightning's, of SIGTERM with exit code 0 and of Ctrl-C with 1
        raise KeyboardInterrupt from None


def _name(runs: list[Run]) -> str:
    """One run's name; of several, every value once: `init=mirror l0=20,40 seed=24 (2 SAEs)`."""
    rows = [(run.config.init.label, run.config.l0, run.config.seed) for run in runs]
    labels, l0s, seeds = (",".join(str(value) for value in dict.fromkeys(column)) for column in zip(*rows, strict=True))
    return f"init={labels} l0={l0s} seed={seeds}" + (f" ({len(runs)} SAEs)" if len(runs) > 1 else "")
