"""A few real training steps of a job, timed: its own start, loss, optimizer and loop, on given activations.

The fast loss on a CPU takes time by L0, which falls from about half of all latents to the target within some hundred
steps. So steps are timed at several L0, and the course of L0 over a run is foretold from its start.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
from collections.abc import Iterator
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import lightning as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from saemd.planning.work import Job
from saemd.sae import INITS
from saemd.sae.twins import fast_twin
from saemd.training.module import SAETraining
from saemd.training.run import make_module
from saemd.training.schedules import Schedule
from saemd.training.stack.module import StackTraining

WARM = 2  # steps that are not counted: the first ones load compiled loops and fill buffers
MOST = 8  # steps at each L0
LEVELS = 4  # values of L0, from the start's to the target
STEPS = WARM + LEVELS * (MOST + 1)  # at most
RISE = 1.35  # θ rises by about this times its learning rate a step until L0 is at its target (1.2 to 1.5 on SmolLM2)
_SOURCE = "sample"  # the name of the held-out activations of a stack
_SAMPLE = 128  # tokens by which L0 is foretold


@dataclasses.dataclass(frozen=True)
class StepSeconds:
    """Seconds of a step by L0, of a held-out batch, and of Lightning's beginning and end, `once` a job."""

    l0: list[float]  # rising
    seconds: list[float]
    held_out: float
    once: float

    def at(self, l0: np.ndarray) -> np.ndarray:
        """Interpolated by the logarithm of L0; beyond the ends the values there."""
        return np.interp(np.log(l0), np.log(self.l0), self.seconds)


@dataclasses.dataclass(frozen=True)
class Start:
    """What is foretold from a job's weights at step 0, and the `seconds` that making them took."""

    seconds: float
    d_sae: int
    schedule: Schedule
    theta: float  # mean of all latents
    rise: float  # of θ in a step at the full learning rate
    pre: np.ndarray | None  # sorted pre-activations; None where the SAE has no θ that training moves

    def theta_at(self, l0: float) -> float:
        """The θ of all latents at which `l0` latents of a token are active."""
        assert self.pre is not None
        index = int(len(self.pre) * (1 - l0 / self.d_sae))
        return max(float(self.pre[min(max(index, 0), len(self.pre) - 1)]), 1e-6)

    def l0_at(self, theta: np.ndarray) -> np.ndarray:
        assert self.pre is not None
        return self.d_sae * (1 - np.searchsorted(self.pre, theta) / len(self.pre))

    def course(self, done: int, target_l0: float) -> np.ndarray:
        """L0 at each step from `done` to the last."""
        targets = target_l0 * np.array([self.schedule.l0_factor(step) for step in range(self.schedule.steps)])
        if self.pre is None:
            return targets[done:]
        rises = self.rise * np.array([self.schedule.lr(step) for step in range(self.schedule.steps)])
        return np.maximum(self.l0_at(self.theta + np.cumsum(rises) - rises), targets)[done:]


@torch.no_grad()
def make_start(job: Job, x_ND: Tensor) -> tuple[Start, SAETraining]:
    """The job's own module at step 0, for raw activations `x_ND`; uniform where the language model is not here."""
    config, model = job.config, job.harvest.model
    if model.has_weights:
        config = dataclasses.replace(config, lm=model.local)
    else:
        uniform = INITS["uniform"].Config(name="uniform", label="uniform")
        config = dataclasses.replace(config, init=uniform, d_sae=job.d_sae)
    scale = x_ND.pow(2).sum(1).mean().sqrt().item()

    def sample(n: int, seed: int = 0) -> Tensor:
        return x_ND[torch.arange(n) % len(x_ND)]  # repeated where a start asks for more

    source: Any = SimpleNamespace(d_in=x_ND.shape[1], scale=scale, mean=x_ND.mean(0), sample=sample)
    began = time.perf_counter()
    module = make_module(config, source)
    seconds, sae = time.perf_counter() - began, module.sae
    theta: Any = getattr(sae, "threshold", None)
    if theta is None or theta.dim() == 0:
        return Start(seconds, job.d_sae, module.schedule, 0.0, 0.0, None), module
    rise = RISE * config.recipe.lr * getattr(config.sae, "threshold_lr", 1.0)
    pre = np.sort(((x_ND[:_SAMPLE] / scale) @ sae.W_enc).numpy(), axis=None)
    return Start(seconds, job.d_sae, module.schedule, theta.mean().item(), rise, pre), module


def time_steps(
    job: Job, start: Start, module: SAETraining, x_ND: Tensor, device: str, seconds: float, together: int = 1
) -> StepSeconds:
    """Train on random batches of `x_ND`, raw activations, for about `seconds`. Nothing is logged or saved.

    Of `together` SAEs in a stack, which are copies of the job's, the seconds are each one's share.
    """
    began, levels = time.perf_counter(), [float(job.config.l0)]
    twin = fast_twin(module.sae, torch.device(device)) if job.config.recipe.fast and device == "cpu" else None
    if start.pre is not None and twin is not None and together == 1:  # a stack on a CPU has the plain loss
        highest = float(start.l0_at(np.array([start.theta]))[0])
        levels = [*np.geomspace(max(highest, job.config.l0 + 1), job.config.l0, LEVELS)]
    clock = _Clock(start, levels, 0.9 * seconds, device)
    x_ND, size = x_ND / module.sae.scale, job.config.batch_size
    trained: SAETraining | StackTraining = module
    if together > 1:
        members = [module, *(copy.deepcopy(module) for _ in range(together - 1))]
        trained = StackTraining(members, [_SOURCE] * together, [None] * together, {})
    trainer = _trainer(job, clock)
    trainer.fit(trained, train_dataloaders=_Batches(x_ND, (together, size) if together > 1 else (size,), STEPS))
    once = max(time.perf_counter() - began - clock.in_steps, 0.0)
    clock.restart()
    held_out = _Batches(x_ND, (size,), 1 if clock.is_slow else 2, _SOURCE if together > 1 else None)
    trainer.validate(trained, dataloaders=held_out, verbose=False)
    timed = sorted((l0, fmean(taken)) for l0, taken in zip(clock.levels, clock.taken, strict=False) if taken)
    levels, seconds_each = [l0 for l0, _ in timed], [taken / together for _, taken in timed]
    return StepSeconds(levels, seconds_each, clock.held_out / together, once / together)


def _trainer(job: Job, clock: _Clock) -> pl.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return pl.Trainer(
        accelerator=job.config.accelerator,
        devices=1,
        max_epochs=1,
        max_steps=STEPS,
        logger=False,
        callbacks=[clock],
        plugins=[LightningEnvironment()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


class _Batches:
    """`n_batches` of random rows, of this shape without their width; with the name of their source, if one is given."""

    def __init__(self, x_ND: Tensor, shape: tuple[int, ...], n_batches: int, source: str | None = None) -> None:
        self.x_ND, self.shape, self.n_batches, self.source = x_ND, shape, n_batches, source
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Tensor | tuple[str, Tensor]]:
        for _ in range(self.n_batches):
            x = self.x_ND[torch.randint(len(self.x_ND), self.shape, generator=self.generator)]
            yield (self.source, x) if self.source else x


class _Clock(pl.Callback):
    """Times steps as they come, level by level of L0, and ends training when the time is up."""

    def __init__(self, start: Start, levels: list[float], seconds: float, device: str) -> None:
        self.start, self.levels, self.device = start, levels, device
        self.taken: list[list[float]] = [[] for _ in levels]
        self.share = seconds / len(levels)
        self.in_steps = self.held_out = self._spent = 0.0
        self.is_slow = False  # so that few steps must do
        self._level, self._warm, self._before, self._seconds = 0, WARM, time.perf_counter(), seconds

    def restart(self) -> None:
        self._before = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.restart()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        taken, mine = self._lap(), self.taken[self._level]
        self._spent += taken
        if self._warm == WARM and taken > self._seconds / 3:
            self.is_slow, self._warm = True, 1
        if self._level == 0 and self._warm == 1:  # slow steps leave no time for every level
            kept = min(len(self.levels), max(2, int(self._seconds / taken / 3)))
            self.levels = [self.levels[i] for i in np.linspace(0, len(self.levels) - 1, kept).round().astype(int)]
            self.share = self._seconds / len(self.levels)
        if self._warm:
            self._warm -= 1
        else:
            mine.append(taken)
        if mine and (len(mine) == MOST or self._spent > self.share):
            self._level, self._warm, self._spent = self._level + 1, 1, 0.0
            if self._level == len(self.levels):
                trainer.should_stop = True
            else:
                with torch.no_grad():
                    pl_module.sae.threshold.fill_(self.start.theta_at(self.levels[self._level]))
        self.restart()

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        self.held_out = self._lap()  # the last one's: the first is slower
        self.restart()

    def _lap(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        taken = time.perf_counter() - self._before
        self.in_steps += taken
        return taken
