"""Training with what follows it: the callback that compares a finished run with its other seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as pl

from saemd.config import Config
from saemd.report.figures import draw_pairs
from saemd.runs import run_dir
from saemd.stability import compare_run
from saemd.training import run
from saemd.training.callbacks import AtEnd
from saemd.training.module import SAETraining


class CompareSiblings(AtEnd):
    """Compares the run that `SaveRun` has just written with its finished siblings (Hungarian method), and logs it."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def act(self, trainer: pl.Trainer, module: SAETraining) -> None:
        pairs = compare_run(run_dir(self.config))
        draw_pairs(Path(self.config.run_root) / "stability", pairs)
        for pair in pairs:
            figures = {f"siblings/{key}": pair[key] for key in ("same_match", "shared", "mean_cos_enc", "mean_cos_dec")}
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.global_step)


def train(config: Config) -> dict[str, Any]:
    """`saemd.training.run.train`, and the comparison; returns `metrics.json`'s content."""
    return run.train(config, [CompareSiblings(config)])
