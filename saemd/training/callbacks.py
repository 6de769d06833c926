"""Callbacks of training: the progress bar, the checkpoint, and the run's files."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as pl
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn

from saemd.config import Config
from saemd.progress import Bar, bar
from saemd.training.module import SAETraining
from saemd.training.save import save


class ProgressBar(pl.Callback):
    """Tokens the run has seen, with L0 and FVU of the last logged batch, at the end of the held-out activations."""

    def __init__(self, description: str, steps: int, batch_size: int) -> None:
        self.description, self.tokens, self.batch_size = description, steps * batch_size, batch_size
        self._open = ExitStack()
        self._bar: Bar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        done = trainer.global_step * self.batch_size
        self._bar = self._open.enter_context(bar(self.description, self.tokens, done, "tokens"))
        self._bar.note("first step (compiles its loops where this was never done)")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self._bar
        self._bar.advance(self.batch_size)
        if figures := pl_module.last_figures:
            self._bar.note(f"L0 {figures['train/l0']:.0f}  FVU {figures['train/fvu']:.3f}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._bar:  # none where a trained run has only to be measured
            self._bar.note("measuring on held-out activations")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._bar:
            self._bar.note(f"L0 {pl_module.held_out.l0:.0f}  FVU {pl_module.held_out.fvu:.3f} held-out")

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._open.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._open.__exit__(type(exception), exception, exception.__traceback__)


class TimedCheckpoint(pl.Callback):
    """A checkpoint every so many minutes, at the end, and where SIGTERM asks the process to stop."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.seconds, self._last = path, 60 * minutes, time.monotonic()

    def save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.received_sigterm or time.monotonic() - self._last >= self.seconds:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.save(trainer)


class AtEnd(pl.Callback, ABC):
    """Acts on a run when it is trained and measured, and its `last.ckpt` is that of the last step.

    Not as soon as it is measured: were the disk full then, a run without that checkpoint would count as finished.
    """

    @abstractmethod
    def act(self, module: SAETraining, steps: int, loggers: Sequence[Logger]) -> None:
        """What is done with the run behind the last of its `steps`."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.held_out:  # none where nothing was left to train; then it is measured by itself
            self.act(pl_module, trainer.global_step, trainer.loggers)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.act(pl_module, trainer.global_step, trainer.loggers)


class SaveRun(AtEnd):
    """Writes a finished run's files; `metrics.json` last. `together`: the number of SAEs in its stack."""

    def __init__(self, config: Config, folder: Path, together: int = 1) -> None:
        self.config, self.folder, self.together = config, folder, together

    def act(self, module: SAETraining, steps: int, loggers: Sequence[Logger]) -> None:
        assert module.held_out
        speed: dict[str, float] = {"tokens_per_second": module.tokens_per_second, "seconds": module.seconds}
        if self.together > 1:  # then both are those of a stack
            speed["trained_together"] = self.together
        save(module, module.held_out, steps, self.config, self.folder, speed)
