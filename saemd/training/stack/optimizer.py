"""`SAEAdam` of every SAE of a stack at once.

Each member keeps an optimizer and a scheduler of its own, whose states are views of the stack's: a checkpoint of one
member is what its own run would have written. Learning rates and Adam's corrections come from tables on the device, and
so does the number of the step, so that a step copies nothing to it and can be captured.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from saemd.sae import SAE
from saemd.sae.stack import joined
from saemd.sae.twins import multiplies_bfloat16
from saemd.training.config import RecipeConfig
from saemd.training.constraints import ConstraintTable
from saemd.training.optimizer import SAEAdam


class Member(NamedTuple):
    """One run's own optimizer, its schedule as the run's checkpoint has it, and its recipe."""

    optimizer: SAEAdam
    scheduler: LambdaLR
    recipe: RecipeConfig


class StackAdam(torch.optim.Optimizer):
    """Steps the stack `whole`, whose SAEs the `members` are, for `steps` steps in all.

    `start_dec` [S, F, D] is W_dec at step 0. The recipes may differ in learning rates, schedules, constraints,
    clipping, β₂ and ε. `gradient_norm` [S] is the last step's, before clipping, after the projection. `taken` counts
    the steps, and so does `count`, on the device.
    """

    def __init__(self, whole: SAE, members: Sequence[Member], steps: int, start_dec: Tensor) -> None:
        super().__init__(whole.parameter_groups(1.0), {"lr": 1.0})  # multiples of each member's learning rate
        self.whole, self.members, self.taken = whole, members, 0
        self.recipe, self.beta1 = members[0].recipe, members[0].optimizer.beta1
        self.gradient_norm = torch.zeros(len(members))
        device = whole.W_dec.device
        self.count = torch.zeros((), dtype=torch.long, device=device)

        def numbers(key: str) -> Tensor:  # [S]
            return torch.tensor([getattr(member.recipe, key) for member in members], device=device)

        self._clip, self._beta2, self._eps = numbers("grad_clip_norm"), numbers("adam_beta2"), numbers("adam_eps")
        counts = torch.arange(1, steps + 1, dtype=torch.float64)
        rates = [_rates(member, counts, self.beta1) for member in members]
        corrections = [1 / (1 - member.recipe.adam_beta2**counts).sqrt() for member in members]
        self._lr, self._correction = (  # [steps, S]
            torch.stack(columns, dim=1).float().to(device) for columns in (rates, corrections)
        )
        self._constraints = ConstraintTable([member.optimizer.plan for member in members], start_dec, steps)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = closure() if closure else None  # Lightning's, which turns gradients on itself
        if self.recipe.fast and multiplies_bfloat16(self.whole.W_dec.device.type):
            self.step_by_passes()
        else:
            self._one_by_one()
        self.taken += 1
        return loss

    @torch.no_grad()
    def join(self) -> None:
        """Let the members' states, new or from checkpoints, share the stack's memory: once, before the first step."""
        names = {id(parameter): name for name, parameter in self.whole.named_parameters()}
        for group in self.param_groups:
            for parameter in group["params"]:
                states = [member.optimizer.state_of(names[id(parameter)]) for member in self.members]
                self.taken = states[0]["step"]
                self.state[parameter] = {
                    key: joined([state[key] for state in states]) for key in states[0] if key != "step"
                }
        self.count.fill_(self.taken)

    def _one_by_one(self) -> None:
        """Each member's own optimizer, on its part of the gradients: the reference."""
        for i, member in enumerate(self.members):
            for name, parameter in member.optimizer.sae.named_parameters():
                whole = self.whole.get_parameter(name).grad
                parameter.grad = None if whole is None else whole[i]
            rate = member.recipe.lr * member.scheduler.lr_lambdas[0](self.taken)
            for group, multiple in zip(member.optimizer.param_groups, self.param_groups, strict=True):
                group["lr"] = rate * multiple["lr"]
            member.optimizer.plain_step()
        self.gradient_norm = torch.tensor([member.optimizer.gradient_norm for member in self.members])

    @torch.no_grad()
    def step_by_passes(self) -> None:
        """The whole step on the device; nothing waits for it. `taken` is left to the caller."""
        from saemd.training import optimizer_passes as passes

        lr, correction = (table.index_select(0, self.count.view(1))[0] for table in (self._lr, self._correction))
        self.gradient_norm = passes.step_(
            self.whole, self.param_groups, self.state, [lr * group["lr"] for group in self.param_groups], correction,
            self._clip, self.beta1, self._beta2, self._eps, self._constraints.at(self.count),
        )  # fmt: skip
        self.whole.after_step()
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        """The members' own optimizer and scheduler states, as their runs' checkpoints have them."""
        states = []
        for member in self.members:
            for state in member.optimizer.state.values():
                state["step"] = self.taken
            member.scheduler.last_epoch, member.scheduler._step_count = self.taken, self.taken + 1
            rates = [base * member.scheduler.lr_lambdas[0](self.taken) for base in member.scheduler.base_lrs]
            member.scheduler._last_lr = rates
            for group, rate in zip(member.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            states.append((member.optimizer.state_dict(), member.scheduler.state_dict()))
        return {"members": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` gives, before `join`."""
        assert not self.state, "a stack whose states are joined takes no others"
        for member, (optimizer, scheduler) in zip(self.members, state_dict["members"], strict=True):
            member.optimizer.load_state_dict(optimizer)
            member.scheduler.load_state_dict(scheduler)


def _rates(member: Member, counts: Tensor, beta1: float) -> Tensor:
    """The member's learning rate at every step [steps], divided by 1 − β₁ᵗ."""
    factor = member.scheduler.lr_lambdas[0]
    factors = torch.tensor([factor(step) for step in range(len(counts))], dtype=torch.float64)
    return member.recipe.lr * factors / (1 - beta1**counts)
