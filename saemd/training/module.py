"""The LightningModule: one SAE of any architecture, its optimizer, and what is logged while it trains."""

import math
import time
from typing import Any

import lightning as pl
import torch
from torch import Tensor

from saemd.errors import bad_value
from saemd.sae import SAE, Progress
from saemd.sae.measures import HeldOut, Pooled
from saemd.sae.twins import Twin, fast_twin
from saemd.training.config import RecipeConfig
from saemd.training.figures import batch_figures
from saemd.training.optimizer import SAEAdam
from saemd.training.schedules import schedule

LOG_EVERY = 10  # steps between two logged points


def is_logged(at: Progress) -> bool:
    return at.step % LOG_EVERY == 0 or at.step == at.steps - 1


class SAETraining(pl.LightningModule):
    """Trains `sae` on batches [B, D] of activations in normalised units, for exactly `steps` steps.

    `mean_D`: mean of the training activations, raw units. `held_out` holds the last validation's figures.
    """

    start_dec: Tensor
    start_enc: Tensor
    last_fired: Tensor
    mean: Tensor

    def __init__(self, sae: SAE, recipe: RecipeConfig, *, steps: int, mean_D: Tensor) -> None:
        super().__init__()
        self.sae, self.recipe = sae, recipe
        self.schedule = schedule(recipe, steps)
        self.twin: Twin | None = None
        self.held_out: HeldOut | None = None
        self.register_buffer("start_dec", sae.W_dec.detach().clone(), persistent=False)
        self.register_buffer("start_enc", sae.W_enc.detach().clone(), persistent=False)
        self.register_buffer("mean", mean_D / sae.scale, persistent=False)
        self.register_buffer("last_fired", torch.zeros(sae.d_sae, dtype=torch.long))  # step, per latent
        self.last_figures: dict[str, float] = {}
        self._log_now = False
        self._last_log = (time.perf_counter(), 0)  # and its step
        self.seconds = self.tokens_per_second = 0.0  # of this process's part of the training, by the wall clock

    def configure_optimizers(self) -> Any:
        self.optimizer = SAEAdam(self.sae, self.recipe, self.schedule, self.start_dec)
        scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.schedule.lr)
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        self.twin = fast_twin(self.sae, self.device) if self.recipe.fast else None
        self.start_clock(self.global_step)

    def training_step(self, x_BD: Tensor, batch_idx: int) -> Tensor:
        at = self.schedule.at(self.global_step)
        loss = self._loss = self.twin(self.sae, x_BD, at) if self.twin else self.sae.objective(x_BD, at)
        self.last_fired.masked_fill_(loss.fired, at.step)  # as an index, the mask would be waited for
        self._log_now = is_logged(at)
        if self._log_now:
            names, values = batch_figures(
                self.sae, loss, x_BD, at,
                mean_D=self.mean, start_dec=self.start_dec, start_enc=self.start_enc, last_fired=self.last_fired,
            )  # fmt: skip
            figures = dict(zip(names, values.tolist(), strict=True))  # waits for a GPU once
            self.take_figures(figures, at, self.sae.batch.size(len(x_BD)))
        return loss.total

    def backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        self._loss.backward(self.sae)
        self.sae.batch.average_gradients(self.sae.parameters())

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        self.read_clock(self.global_step, self.sae.batch.size(len(batch)))
        if self._log_now:
            self.last_figures["train/grad_norm"] = self.optimizer.gradient_norm
            for logger in self.loggers:
                logger.log_metrics(self.last_figures, step=self.global_step)

    def start_clock(self, step: int) -> None:
        self._last_log = self._began = (time.perf_counter(), step)

    def read_clock(self, step: int, batch_size: int) -> None:
        self.seconds = time.perf_counter() - self._began[0]
        self.tokens_per_second = (step - self._began[1]) * batch_size / self.seconds

    def take_figures(self, figures: dict[str, float], at: Progress, batch_size: int) -> None:
        """Keep a batch's figures to be logged. Raises `UserError` where one is not finite."""
        for name, value in figures.items():
            if not math.isfinite(value):  # training would go on to its end with it
                remedy = f"{name} is {value} at step {at.step}; lower it, and train in another run_root"
                raise bad_value("recipe.lr", self.recipe.lr, remedy)
        then, since = self._last_log
        now = self._last_log = (time.perf_counter(), at.step)
        self.last_figures = {
            **figures,
            "train/tokens_per_second": (at.step - since) * batch_size / (now[0] - then),
            "train/learning_rate": self.recipe.lr * self.schedule.lr(at.step),
            "tokens": at.step * batch_size,
        }

    def on_validation_epoch_start(self) -> None:
        self._pooled = Pooled(self.sae.d_in, self.sae.d_sae)

    def validation_step(self, x_BD: Tensor, batch_idx: int) -> None:
        self._pooled.update(self.sae, x_BD)

    def on_validation_epoch_end(self) -> None:
        self.held_out = self._pooled.result()
