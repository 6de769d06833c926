"""Learning rate and sparsity over the steps: linear warm-ups, and a linear decay to 0 at the end."""

from __future__ import annotations

from dataclasses import dataclass

from saemd.errors import bad_value
from saemd.training.config import RecipeConfig


@dataclass(frozen=True)
class Schedules:
    """Step counts of one run. `lr` and `sparsity` map a step (from 0) to a factor in [0, 1].

    As `dictionary_learning`'s `get_lr_schedule` and `get_sparsity_warmup_fn`: the first step has factor 0 where there
    is a warm-up, and the step after the last would have learning rate 0.
    """

    steps: int
    lr_warmup: int
    lr_decay_start: int
    sparsity_warmup: int

    def lr(self, step: int) -> float:
        if step < self.lr_warmup:
            return step / self.lr_warmup
        if step >= self.lr_decay_start:
            return max(self.steps - step, 0) / max(self.steps - self.lr_decay_start, 1)
        return 1.0

    def sparsity(self, step: int) -> float:
        return min(step / self.sparsity_warmup, 1.0) if self.sparsity_warmup else 1.0


def schedules(recipe: RecipeConfig, steps: int) -> Schedules:
    """The schedules of a run of `steps` steps. Raises `UserError` where a warm-up would outlast the decay's start."""
    lr_warmup = min(recipe.lr_warmup_steps, int(recipe.lr_warmup_fraction * steps))
    sparsity_warmup = min(recipe.sparsity_warmup_steps, int(recipe.sparsity_warmup_fraction * steps))
    decay_start = steps - int(recipe.lr_decay_fraction * steps)
    for key, warmup in (("lr", lr_warmup), ("sparsity", sparsity_warmup)):
        if warmup and warmup >= decay_start:
            raise bad_value(
                f"recipe.{key}_warmup_steps",
                getattr(recipe, f"{key}_warmup_steps"),
                f"a run of {steps} steps starts to decay at step {decay_start}; "
                f"lower it, or set recipe.{key}_warmup_fraction (0.05 is usual), or train longer",
            )
    return Schedules(steps, lr_warmup, decay_start, sparsity_warmup)
