"""The LightningModule of a stack: the runs of several SAEs, made in common steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as pl
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from saemd.errors import UserError
from saemd.sae import SAE, Progress
from saemd.sae.measures import HeldOut
from saemd.sae.stack import joined, stack
from saemd.sae.twins import Twin, fast_twin
from saemd.training.figures import batch_figures
from saemd.training.module import SAETraining, is_logged
from saemd.training.schedules import l0_factors
from saemd.training.stack.captured import CapturedStep
from saemd.training.stack.optimizer import Member, StackAdam


class StackTraining(pl.LightningModule):
    """Trains the SAEs of `members` on batches [S, B, D]; their modules and optimizers stay as in runs of their own.

    A member whose loss or weights are no longer finite goes into `failed`, by its number, with the reason: it is
    logged and saved no more, and the others go on. `loggers` are the members' own, and `sources` the fingerprints of
    their activations: held-out batches come with one, and measure the members that have it.
    """

    def __init__(
        self, members: Sequence[SAETraining], sources: Sequence[str], loggers: Sequence[Logger | None],
        failed: dict[int, UserError],
    ) -> None:  # fmt: skip
        super().__init__()
        self.members = nn.ModuleList(members)
        self.sources, self.loggers_of = sources, loggers
        self.schedule = members[0].schedule
        self.failed = failed
        self.twin: Twin | None = None
        self.captured: CapturedStep | None = None
        self.last_figures: dict[str, float] = {}

    def running(self) -> list[tuple[int, SAETraining]]:
        """The members that have not failed, with their numbers."""
        return [(i, member) for i, member in enumerate(self.all_members()) if i not in self.failed]

    def all_members(self) -> list[SAETraining]:
        return [member for member in self.members if isinstance(member, SAETraining)]

    @property
    def sae(self) -> SAE:
        """The stack itself, once training has begun."""
        return self.optimizer.whole

    @property
    def held_out(self) -> HeldOut | None:
        return next((member.held_out for _, member in self.running()), None)

    def configure_optimizers(self) -> Any:
        """Joins the members' memory, which from here on stays on one device."""
        members = self.all_members()
        parts = [
            Member(made["optimizer"], made["lr_scheduler"]["scheduler"], member.recipe)
            for member in members
            for made in [member.configure_optimizers()]
        ]
        self._starts = {name: joined([m.get_buffer(name) for m in members]) for name in ("start_dec", "start_enc")}
        whole = stack([member.sae for member in members])
        self.optimizer = StackAdam(whole, parts, self.schedule.steps, self._starts["start_dec"])
        self._l0_factors = l0_factors([member.schedule for member in members], whole.W_dec.device)
        self._last_fired = joined([member.last_fired for member in members])
        self._mean = joined([member.mean for member in members]).unsqueeze(1)
        return self.optimizer

    def on_train_start(self) -> None:
        self.twin = fast_twin(self.sae, self.device) if self.all_members()[0].recipe.fast and self._on_gpu() else None
        self.captured = CapturedStep(self._whole_step) if self.twin and self.sae.batch.devices == 1 else None
        self.optimizer.join()
        for member in self.all_members():
            member.start_clock(self.global_step)

    def _on_gpu(self) -> bool:  # the kernels for a CPU take one SAE
        return self.device.type == "cuda"

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Where the step is captured, `training_step`, called by the closure, does it all.

        Logged steps are not captured, since their figures show the parts of the loss.
        """
        self._log_now = is_logged(Progress(self.global_step, self.schedule.steps))
        self._captured_now = self.captured and not self._log_now
        if self._captured_now:
            assert optimizer_closure
            optimizer_closure()
            self.optimizer.taken += 1
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def _at(self, step: int | Tensor) -> Progress:
        if self._l0_factors is None:
            return Progress(step, self.schedule.steps)
        index = step if isinstance(step, Tensor) else torch.tensor(step, device=self._l0_factors.device)
        return Progress(step, self.schedule.steps, self._l0_factors.index_select(0, index.view(1))[0])

    def _whole_step(self, x_SBD: Tensor) -> Tensor:
        """Loss, gradients and the optimizer's step, without a number that the host changes."""
        assert self.twin
        loss = self.twin(self.sae, x_SBD, at := self._at(self.optimizer.count))
        self._last_fired.copy_(torch.where(loss.fired, at.step, self._last_fired))  # masked_fill_ would wait
        loss.backward(self.sae)
        self.optimizer.step_by_passes()
        return loss.total.sum()

    def training_step(self, x_SBD: Tensor, batch_idx: int) -> Tensor:
        if self._captured_now:
            assert self.captured
            return self.captured(x_SBD)
        at = self._at(self.global_step)
        loss = self._loss = self.twin(self.sae, x_SBD, at) if self.twin else self.sae.objective(x_SBD, at)
        self._last_fired.masked_fill_(loss.fired, at.step)
        if self._log_now:
            names, values = batch_figures(
                self.sae, loss, x_SBD, at, mean_D=self._mean, last_fired=self._last_fired, **self._starts
            )
            for (i, member), row in zip(enumerate(self.all_members()), values.tolist(), strict=True):
                if i not in self.failed:
                    self._take(i, member, dict(zip(names, row, strict=True)), at, self._batch_size(x_SBD))
        return loss.total.sum()

    def _take(self, i: int, member: SAETraining, figures: Mapping[str, float], at: Progress, batch_size: int) -> None:
        try:
            member.take_figures(dict(figures), at, batch_size)
        except UserError as error:
            self.failed[i] = error
            if not self.running():
                raise
        else:
            self.last_figures = member.last_figures

    def backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        if not self._captured_now:
            self._loss.backward(self.sae)
            self.sae.batch.average_gradients(self.sae.parameters())

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        if not self._log_now and self.global_step < self.schedule.steps:
            return
        norms = self.optimizer.gradient_norm.tolist()
        for i, member in self.running():
            member.read_clock(self.global_step, self._batch_size(batch))
            member.last_figures["train/grad_norm"] = norms[i]
            if logger := self.loggers_of[i]:
                logger.log_metrics(member.last_figures, step=self.global_step)

    def _batch_size(self, x_SBD: Tensor) -> int:
        return self.sae.batch.size(x_SBD.shape[-2])

    def on_validation_epoch_start(self) -> None:
        for _, member in self.running():
            member.on_validation_epoch_start()

    def validation_step(self, batch: tuple[str, Tensor], batch_idx: int) -> None:
        source, x_BD = batch
        for i, member in self.running():
            if self.sources[i] == source:
                member.validation_step(x_BD, batch_idx)

    def on_validation_epoch_end(self) -> None:
        for _, member in self.running():
            member.on_validation_epoch_end()
