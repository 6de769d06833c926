"""Callbacks of training: the progress bar, the checkpoint, and the run's files."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as pl
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn

from saemd.config import Config
from saemd.errors import bad_value
from saemd.files import replacing, write_text
from saemd.progress import Bar, bar
from saemd.runs import LATENTS, METRICS
from saemd.sae import save_sae
from saemd.sae.export import not_finite
from saemd.sae.measures import row_cosines
from saemd.training.module import SAETraining


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
        config, folder, sae, held_out = self.config, self.folder, module.sae, module.held_out
        assert held_out
        if not math.isfinite(held_out.loss) or not_finite(sae.state_dict()):
            remedy = "training has ended in NaN or infinite weights; lower it, and train in another run_root"
            raise bad_value("recipe.lr", config.recipe.lr, remedy)
        with torch.no_grad():
            cos_dec = row_cosines(sae.W_dec, module.start_dec).cpu()
            cos_enc = row_cosines(sae.W_enc.T, module.start_enc.T).cpu()
        metadata = {
            "model_name": config.lm.name,
            "hook_name": f"blocks.{config.layer}.hook_resid_post",
            "hook_layer": config.layer,
            "context_size": config.activations.context_length,
            "trained_with": "saemd",
        }
        save_sae(sae, folder, metadata)
        latents: dict[str, Any] = {
            "alive": held_out.alive.numpy(),
            "fire_rate": held_out.fire_rate.numpy(),
            "cos_dec_start": cos_dec.numpy(),
            "cos_enc_start": cos_enc.numpy(),
        }
        with replacing(folder / LATENTS) as aside:
            np.savez(aside, **latents)
        metrics = {
            "tokens": steps * config.batch_size,
            "steps": steps,
            "target_l0": config.l0,
            "l0": held_out.l0,
            "fvu": held_out.fvu,
            "explained_variance": held_out.explained_variance,
            "loss": held_out.loss,
            "dead_fraction": held_out.dead_fraction,
            "drift_dec": cos_dec.mean().item(),
            "drift_enc": cos_enc.mean().item(),
            "tokens_per_second": module.tokens_per_second,
            "seconds": module.seconds,
            "held_out_tokens": held_out.tokens,
        }
        if self.together > 1:  # then tokens_per_second and seconds are those of a stack
            metrics["trained_together"] = self.together
        write_text(folder / METRICS, json.dumps(metrics, indent=2) + "\n")
