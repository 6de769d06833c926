"""What changes over a run: the learning rate, the encoder's decay, whether the matrices move, the target L0."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saemd.sae.base import Progress
from saemd.sae.warmup import refuse_long_warmup, warmup_length
from saemd.training.config import RecipeConfig

ENDLESS = 2**62  # steps of an optimizer that belongs to no run


@dataclass(frozen=True)
class Schedule:
    """Step counts of one run. Steps count from 0; a fraction of the run is rounded down to whole steps."""

    recipe: RecipeConfig
    steps: int
    lr_warmup: int
    lr_decay_start: int

    def lr(self, step: int) -> float:
        """The learning rate as a factor of `recipe.lr`.

        As `dictionary_learning`'s `get_lr_schedule`: the first step has factor 0 where there is a warm-up, and the step
        after the last would have `lr_final`.
        """
        if step < self.lr_warmup:
            return step / self.lr_warmup
        if step < self.lr_decay_start:
            return 1.0
        left = max(self.steps - step, 0) / max(self.steps - self.lr_decay_start, 1)
        if self.recipe.lr_decay == "cosine":
            left = (1 - math.cos(math.pi * left)) / 2
        return self.recipe.lr_final + (1 - self.recipe.lr_final) * left

    def encoder_decay(self, step: int) -> float:
        """The decay of W_enc in this step, before it is multiplied by the learning rate."""
        return self.recipe.encoder_decay if step < int(self.recipe.encoder_decay_until * self.steps) else 0.0

    def decoder_moves(self, step: int) -> bool:
        """Whether this step updates W_dec."""
        return step < int(self.recipe.freeze_decoder_after * self.steps)

    def encoder_moves(self, step: int) -> bool:
        """Whether this step updates W_enc."""
        return step < int(self.recipe.freeze_encoder_after * self.steps)

    def l0_factor(self, step: int) -> float:
        """The target L0 of this step as a multiple of the last one's."""
        end = int(self.recipe.l0_fall_fraction * self.steps)
        return self.recipe.l0_start + (1 - self.recipe.l0_start) * step / end if step < end else 1.0

    def at(self, step: int) -> Progress:
        return Progress(step, self.steps, self.l0_factor(step))


def l0_factors(schedules: Sequence[Schedule], device: torch.device) -> Tensor | None:
    """Each step's factor of the target L0 for the SAEs of a stack [steps, S]; None where it is 1 in all of them."""
    if all(schedule.recipe.l0_start == 1 for schedule in schedules):
        return None
    rows = [[schedule.l0_factor(step) for schedule in schedules] for step in range(schedules[0].steps)]
    return torch.tensor(rows, dtype=torch.float32, device=device)


def schedule(recipe: RecipeConfig, steps: int) -> Schedule:
    """The schedule of a run of `steps` steps. Raises `UserError` where the warm-up would outlast the decay's start."""
    decay_start = steps - int(recipe.lr_decay_fraction * steps)
    refuse_long_warmup("recipe", recipe, "lr", steps, decay_start)
    return Schedule(recipe, steps, warmup_length(recipe, "lr", steps), decay_start)
