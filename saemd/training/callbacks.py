"""Callbacks of a training job: its progress bar, its checkpoint, and the comparison with the runs of other seeds."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as pl
import numpy as np
import torch

from saemd.config import Config
from saemd.progress import Bar, bar
from saemd.sae import save_sae
from saemd.training import record
from saemd.training.metrics import row_cosines

CHECKPOINT = "last.ckpt"


class ProgressBar(pl.Callback):
    """Tokens trained, with L0 and FVU of the last logged batch, at the end of the held-out activations."""

    def __init__(self, description: str, tokens: int) -> None:
        self.description, self.tokens, self._open = description, tokens, ExitStack()
        self._bar: Bar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        done = trainer.global_step * (self.tokens // pl_module.schedules.steps)
        self._bar = self._open.enter_context(bar(self.description, total=self.tokens, done=done))
        self._bar.note("first step (compiles its loops where this was never done)")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self._bar
        self._bar.advance(len(batch))
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


class SaveRun(pl.Callback):
    """Writes the finished run's files once the held-out figures are there; `metrics.json` last."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        config, folder, sae, held_out = self.config, self.folder, pl_module.sae, pl_module.held_out
        with torch.no_grad():
            cos_dec = row_cosines(sae.W_dec, pl_module.start_dec).cpu()
            cos_enc = row_cosines(sae.W_enc.T, pl_module.start_enc.T).cpu()
        metadata = {
            "model_name": config.lm.name,
            "hook_name": f"blocks.{config.layer}.hook_resid_post",
            "hook_layer": config.layer,
            "context_size": config.activations.context_length,
            "trained_with": "saemd",
        }
        save_sae(sae, folder, metadata)
        latents = {
            "alive": held_out.alive.numpy(),
            "fire_rate": held_out.fire_rate.numpy(),
            "cos_dec_start": cos_dec.numpy(),
            "cos_enc_start": cos_enc.numpy(),
        }
        record.replace_with(folder / record.LATENTS, lambda path: np.savez(path, **latents))
        metrics = {
            "tokens": trainer.global_step * config.batch_size,
            "steps": trainer.global_step,
            "target_l0": config.l0,
            "l0": held_out.l0,
            "fvu": held_out.fvu,
            "explained_variance": held_out.explained_variance,
            "loss": held_out.loss,
            "dead_fraction": held_out.dead_fraction,
            "drift_dec": cos_dec.mean().item(),
            "drift_enc": cos_enc.mean().item(),
            "tokens_per_second": pl_module.tokens_per_second,
            "seconds": pl_module.seconds,
            "held_out_tokens": held_out.tokens,
        }
        record.replace_with(folder / record.METRICS, lambda path: path.write_text(json.dumps(metrics, indent=2) + "\n"))


class CompareSiblings(pl.Callback):
    """Compares the run that `SaveRun` has just written with its finished siblings (Hungarian method), and logs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        from saemd.stability import compare_run

        for pair in compare_run(self.folder):
            figures = {f"siblings/{key}": pair[key] for key in ("same_match", "shared", "mean_cos_enc", "mean_cos_dec")}
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.global_step)
