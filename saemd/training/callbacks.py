"""Callbacks of a training job: its progress bar, its checkpoint, and the comparison with the runs of other seeds."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as pl

from saemd.progress import bar

CHECKPOINT = "last.ckpt"


class ProgressBar(pl.Callback):
    """Tokens trained, with L0 and FVU of the last logged batch."""

    def __init__(self, description: str, tokens: int) -> None:
        self.description, self.tokens, self._open = description, tokens, ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        done = trainer.global_step * (self.tokens // pl_module.schedules.steps)
        self._bar = self._open.enter_context(bar(self.description, total=self.tokens, done=done))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._bar.advance(len(batch))
        if figures := pl_module.last_figures:
            self._bar.note(f"L0 {figures['train/l0']:.0f}  FVU {figures['train/fvu']:.3f}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._open.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._open.close()


class TimedCheckpoint(pl.Callback):
    """`last.ckpt` every so many minutes and at the end, written aside and renamed: a kill leaves the one before."""

    def __init__(self, folder: Path, minutes: float) -> None:
        self.path, self.seconds, self._last = folder / CHECKPOINT, 60 * minutes, time.monotonic()

    def save(self, trainer: pl.Trainer) -> None:
        aside = self.path.with_name(f".{CHECKPOINT}.partial")
        trainer.save_checkpoint(aside)
        os.replace(aside, self.path)
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if time.monotonic() - self._last >= self.seconds:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.save(trainer)
