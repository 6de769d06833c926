"""The LightningModule: the SAE, its loss, its optimizer and what is logged while it trains."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning as pl
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from saemd.errors import bad_value
from saemd.sae import JumpReLUSAE, Loss, LossFunction, Penalty, make_loss
from saemd.training.config import RecipeConfig
from saemd.training.metrics import HeldOut, Pooled, row_cosines
from saemd.training.optimizer import SAEAdam
from saemd.training.schedules import schedules

LOG_EVERY = 10  # steps between two logged points
DEAD_AFTER_TOKENS = 10_000_000  # a latent counts as dead in training logs when silent this long, or a tenth of the run


class SAETraining(pl.LightningModule):
    """Trains `sae` on batches [B, D] of activations in normalised units, for exactly `steps` steps.

    Clipping, projection and unit rows belong to the optimizer's step. `held_out` holds the last validation's figures.
    `loss` is by default what the recipe says; runs that take turns (`Together`) share one, and with it its buffers.
    """

    start_dec: Tensor
    start_enc: Tensor
    last_fired: Tensor
    mean: Tensor

    def __init__(
        self,
        sae: JumpReLUSAE,
        recipe: RecipeConfig,
        *,
        target_l0: float,
        steps: int,
        mean_D: Tensor,
        loss: LossFunction | None = None,
    ) -> None:
        super().__init__()
        self.sae, self.recipe, self.target_l0 = sae, recipe, target_l0
        self.schedules = schedules(recipe, steps)
        self.held_out: HeldOut | None = None
        self.register_buffer("start_dec", sae.W_dec.detach().clone(), persistent=False)
        self.register_buffer("start_enc", sae.W_enc.detach().clone(), persistent=False)
        self.register_buffer("mean", mean_D / sae.scale, persistent=False)  # of the training activations, normalised
        self.register_buffer("last_fired", torch.zeros(sae.d_sae, dtype=torch.long))  # step, per latent
        self._loss_of = loss or make_loss(recipe.fast)
        self.logs_to: list[Logger] | None = None  # None: the trainer's loggers
        self.last_figures: dict[str, float] = {}
        self._log_now = False
        self._clock = (time.perf_counter(), 0)
        # Of this process's part of the training, by the wall clock: it also runs while others train together with it.
        self.seconds = self.tokens_per_second = 0.0

    def configure_optimizers(self) -> Any:
        self.optimizer = SAEAdam(self.sae, self.recipe, fused=None if self.recipe.fast else False)
        schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.schedules.lr)
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def penalty(self, step: int) -> Penalty:
        r = self.recipe
        coefficient = r.sparsity_coefficient * self.schedules.sparsity(step)
        return Penalty(self.target_l0, coefficient, r.bandwidth, r.step_on)

    def on_train_start(self) -> None:
        self._clock = self._began = (time.perf_counter(), self.global_step)

    def training_step(self, x_BD: Tensor, batch_idx: int) -> Tensor:
        loss = self._loss = self._loss_of(self.sae, x_BD, self.penalty(self.global_step))
        self.last_fired.masked_fill_(loss.fired, self.global_step)  # as an index, the mask would be waited for
        self._log_now = self.global_step % LOG_EVERY == 0 or self.global_step == self.schedules.steps - 1
        if self._log_now:
            self.last_figures = self._figures(loss, x_BD)
        return loss.total

    def backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        self._loss.backward(self.sae)

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        self.seconds = time.perf_counter() - self._began[0]
        self.tokens_per_second = (self.global_step - self._began[1]) * len(batch) / self.seconds
        if self._log_now:
            self.last_figures["train/grad_norm"] = self.optimizer.gradient_norm
            for logger in self.loggers if self.logs_to is None else self.logs_to:
                logger.log_metrics(self.last_figures, step=self.global_step)

    @torch.no_grad()
    def _figures(self, loss: Loss, x_BD: Tensor) -> dict[str, float]:
        """What is logged of a batch, before its update. FVU is against the training activations' mean."""
        B, step, sae = len(x_BD), self.global_step, self.sae
        fvu = loss.reconstruction / (x_BD - self.mean).pow(2).sum(1).mean()
        then, since = self._clock
        now = self._clock = (time.perf_counter(), step)
        silent = min(DEAD_AFTER_TOKENS // B, self.schedules.steps // 10)
        quantiles = torch.quantile(sae.threshold, torch.tensor([0.05, 0.5, 0.95], device=sae.threshold.device))
        measured = {
            "train/loss": loss.total,
            "train/reconstruction": loss.reconstruction,
            "train/l0": loss.l0,
            "train/fvu": fvu,
            "train/explained_variance": 1 - fvu,
            "train/dead_fraction": (self.last_fired < step - silent).float().mean(),
            "train/threshold_q05": quantiles[0],
            "train/threshold_q50": quantiles[1],
            "train/threshold_q95": quantiles[2],
            "train/drift_dec": row_cosines(sae.W_dec, self.start_dec).mean(),
            "train/drift_enc": row_cosines(sae.W_enc.T, self.start_enc.T).mean(),
        }
        figures = dict(zip(measured, torch.stack(list(measured.values())).tolist(), strict=True))  # waits once
        for name, value in figures.items():
            if not math.isfinite(value):  # training would go on to its end with it
                remedy = f"{name} is {value} at step {step}; lower it, and train in another run_root"
                raise bad_value("recipe.lr", self.recipe.lr, remedy)
        return {
            **figures,
            "train/sparsity_coefficient": self.penalty(step).coefficient,
            "train/tokens_per_second": (step - since) * B / (now[0] - then),
            "train/learning_rate": self.recipe.lr * self.schedules.lr(step),
            "tokens": step * B,
        }

    def on_validation_epoch_start(self) -> None:
        self._pooled = Pooled(self.sae.d_in, self.sae.d_sae)

    def validation_step(self, x_BD: Tensor, batch_idx: int) -> None:
        self._pooled.update(self.sae, x_BD)

    def on_validation_epoch_end(self) -> None:
        self.held_out = self._pooled.result()
