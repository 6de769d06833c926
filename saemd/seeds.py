"""Training with what follows it: the callback that compares a finished run with its other seeds."""

import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger

from saemd.config import Config
from saemd.errors import UserError
from saemd.report.figures import draw_pairs
from saemd.runs import run_dir
from saemd.sae import twins
from saemd.stability import compare_run
from saemd.training import record, run
from saemd.training.callbacks import AtEnd
from saemd.training.devices import needs_processes, training_device
from saemd.training.module import SAETraining
from saemd.training.processes import in_processes
from saemd.training.stack import train as stack_train
from saemd.training.stack.train import Outcome


class CompareSiblings(AtEnd):
    """Compares the run that `SaveRun` has just written with its finished siblings (Hungarian method), and logs it."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def act(self, module: SAETraining, steps: int, loggers: Sequence[Logger]) -> None:
        pairs = compare_run(run_dir(self.config))
        draw_pairs(Path(self.config.run_root) / "stability", pairs)
        for pair in pairs:
            figures = {f"siblings/{key}": pair[key] for key in ("same_match", "shared", "mean_cos_enc", "mean_cos_dec")}
            for logger in loggers:
                logger.log_metrics(figures, step=steps)


def train(config: Config) -> dict[str, Any]:
    """`saemd.training.run.train`, and the comparison; returns `metrics.json`'s content.

    Where a GPU's step can be captured, an SAE alone is a stack of one. Several devices get a process each.
    """
    if needs_processes(config):
        if (metrics := record.finished(config)) is not None:
            return metrics
        return _in_processes(train, config, config)
    if config.devices == 1 and config.recipe.fast and twins.has_gpu_twin(config.sae.name, training_device(config)):
        if (metrics := record.finished(config)) is not None:
            return metrics
        (outcome,) = train_together([config])
        if isinstance(outcome, UserError):
            raise outcome
        return outcome
    return run.train(config, [CompareSiblings(config)])


def follow(config: Config) -> None:
    """Train as a process other than the first of those that torchrun or srun have started.

    It prints errors, and the progress of the harvest, which one of the processes does for all.
    """
    from saemd.seeds import train
    from saemd.training.run import open_activations

    open_activations(config)
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        train(config)


def train_together(configs: Sequence[Config]) -> list[Outcome]:
    """`saemd.training.stack.train.train_together`, and the comparisons."""
    if needs_processes(configs[0]):
        outcomes = _in_processes(_train_together, configs, configs[0])
        return [UserError(outcome) if isinstance(outcome, str) else outcome for outcome in outcomes]
    return stack_train.train_together(configs, lambda config: [CompareSiblings(config)])


def _train_together(configs: Sequence[Config]) -> list[dict[str, Any] | str]:
    """`train_together` in a process of its own, which hands errors back as text."""
    return [str(outcome) if isinstance(outcome, UserError) else outcome for outcome in train_together(configs)]


def _in_processes(function: Callable[[Any], Any], argument: Any, config: Config) -> Any:
    run.open_activations(config)  # the language model runs once, here
    torch.cuda.empty_cache()
    return in_processes(function, argument, config.devices)
