"""The learning rate over the steps: a linear warm-up, and a linear decay to 0 at the end."""

from __future__ import annotations

from dataclasses import dataclass

from saemd.sae.warmup import refuse_long_warmup, warmup_length
from saemd.training.config import RecipeConfig


@dataclass(frozen=True)
class Schedule:
    """Step counts of one run. `lr` maps a step (from 0) to a factor in [0, 1].

    As `dictionary_learning`'s `get_lr_schedule`: the first step has factor 0 where there is a warm-up, and the step
    after the last would have learning rate 0.
    """

    steps: int
    lr_warmup: int
    lr_decay_start: int

    def lr(self, step: int) -> float:
        if step < self.lr_warmup:
            return step / self.lr_warmup
        if step >= self.lr_decay_start:
            return max(self.steps - step, 0) / max(self.steps - self.lr_decay_start, 1)
        return 1.0


def schedule(recipe: RecipeConfig, steps: int) -> Schedule:
    """The schedule of a run of `steps` steps. Raises `UserError` where the warm-up would outlast the decay's start."""
    decay_start = steps - int(recipe.lr_decay_fraction * steps)
    refuse_long_warmup("recipe", recipe, "lr", steps, decay_start)
    return Schedule(steps, warmup_length(recipe, "lr", steps), decay_start)
