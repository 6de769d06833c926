"""What `conf/recipe/` may say: the schedules and the optimizer, which all architectures share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from saemd.errors import bad_value
from saemd.sae.warmup import check_warmup


@dataclass
class RecipeConfig:
    """Table 1 of the paper, and what its code (`dictionary_learning` 0.1.0) adds to it.

    Warm-ups, here and in `sae`, are given in steps, as at the paper's scale (244,140 steps). A run too short for them
    uses the fraction beside each instead: the effective warm-up is min(steps, fraction · all steps). A fraction of 1
    never shortens, and then a run shorter than its warm-ups is an error.
    """

    lr: float = 3e-4
    lr_warmup_steps: int = 1000
    lr_warmup_fraction: float = 0.05
    lr_decay_fraction: float = 0.2  # the learning rate falls to 0 over this last part of the run
    adam_beta1: float | None = None  # null: the architecture's own (jumprelu and gated 0, the others 0.9)
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    grad_clip_norm: float = 1.0
    # Gradients in closed form where the architecture has a fast twin (saemd.sae.twins), Adam in few passes.
    fast: bool = True  # false: the plain reference, autograd in float32


def check_recipe(recipe: RecipeConfig) -> None:
    """Raises `UserError` for a value outside its range."""
    for key in ("lr", "grad_clip_norm", "adam_eps"):
        if not 0 < getattr(recipe, key) < math.inf:
            raise bad_value(f"recipe.{key}", getattr(recipe, key), "use a positive number")
    if not 0 <= recipe.lr_decay_fraction <= 1:
        raise bad_value("recipe.lr_decay_fraction", recipe.lr_decay_fraction, "use a fraction from 0 to 1")
    check_warmup("recipe", recipe, "lr")
    for key in ("adam_beta1", "adam_beta2"):
        if (value := getattr(recipe, key)) is not None and not 0 <= value < 1:
            raise bad_value(f"recipe.{key}", value, "use a number from 0 to below 1")
