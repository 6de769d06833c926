"""Several SAEs trained on the same batches, in lockstep: one pass over the cache and one training loop for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as pl
import torch
from torch import Tensor, nn

from saemd.training.module import SAETraining


class Together(pl.LightningModule):
    """Gives each batch to its members in turn; each has its own loss, optimizer, schedules and figures.

    A member's turn is a whole step: its gradients are used up before the next one's loss, so members may share one
    loss function's buffers, and each adds its parameters and optimizer state to the memory, but no activations. The
    arithmetic of a turn is that of a run alone, and so are its results.

    A member whose turn raises is in `failed` from then on, and the others go on without it; `on_failure` hears of it.
    """

    def __init__(
        self,
        members: Sequence[SAETraining],
        on_failure: Callable[[SAETraining, Exception], None] = lambda member, error: None,
    ) -> None:
        super().__init__()
        self.members = tuple(members)
        self.each = nn.ModuleList(members)  # registers them: `each.<i>.` begins the names of member i's state
        self.failed: set[SAETraining] = set()
        self._on_failure = on_failure

    def turn(self, member: SAETraining, act: Callable[..., Any], *args: Any) -> Any:
        """`act(*args)`, for a member that has not failed. Its error goes on only where no member is left."""
        if member in self.failed:
            return None
        try:
            return act(*args)
        except Exception as error:
            self.failed.add(member)
            self._on_failure(member, error)
            if len(self.failed) == len(self.members):
                raise
            return None

    def setup(self, stage: str) -> None:
        for member in self.members:
            member.trainer = self.trainer

    def configure_optimizers(self) -> Any:
        parts = [member.configure_optimizers() for member in self.members]
        optimizer = Optimizers([part["optimizer"] for part in parts])
        schedules = Schedulers(optimizer, [part["lr_scheduler"]["scheduler"] for part in parts])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedules, "interval": "step"}}

    def on_train_start(self) -> None:
        for member in self.members:
            member.on_train_start()

    def training_step(self, x_BD: Tensor, batch_idx: int) -> Tensor:
        """Every member's whole step; the sum of their losses, for Lightning to show."""
        losses = [self.turn(member, self._step, member, x_BD, batch_idx) for member in self.members]
        return torch.stack([loss for loss in losses if loss is not None]).sum()

    def _step(self, member: SAETraining, x_BD: Tensor, batch_idx: int) -> Tensor:
        loss = member.training_step(x_BD, batch_idx)
        member.backward(loss)
        member.optimizer.step()
        member.optimizer.zero_grad()
        return loss.detach()

    def backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        """Nothing is left to do: `training_step` has taken each member's gradients and steps."""

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        for member in self.members:
            self.turn(member, member.on_train_batch_end, outputs, batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        for member in self.members:
            self.turn(member, member.on_validation_epoch_start)

    def validation_step(self, x_BD: Tensor, batch_idx: int) -> None:
        for member in self.members:
            self.turn(member, member.validation_step, x_BD, batch_idx)

    def on_validation_epoch_end(self) -> None:
        for member in self.members:
            self.turn(member, member.on_validation_epoch_end)


class Optimizers(torch.optim.Optimizer):
    """The members' optimizers as Lightning's one: a batch counts as one step. The closure has taken all of theirs."""

    def __init__(self, each: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([group for optimizer in each for group in optimizer.param_groups], {})
        self.each = each

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        return closure()

    def state_dict(self) -> dict[str, Any]:
        return {"each": [optimizer.state_dict() for optimizer in self.each]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.each, state_dict["each"], strict=True):
            optimizer.load_state_dict(state)


class Schedulers:
    """The members' learning rate schedules as Lightning's one."""

    def __init__(self, optimizer: Optimizers, each: Sequence[torch.optim.lr_scheduler.LRScheduler]) -> None:
        self.optimizer, self.each = optimizer, each

    def step(self) -> None:
        for schedule in self.each:
            schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return {"each": [schedule.state_dict() for schedule in self.each]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for schedule, state in zip(self.each, state_dict["each"], strict=True):
            schedule.load_state_dict(state)
