"""What `conf/recipe/` may say: loss, schedules, optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from saemd.errors import bad_value


@dataclass
class RecipeConfig:
    """Table 1 of the paper, and what its code (`dictionary_learning` 0.1.0) adds to it.

    The warm-ups are given in steps, as at the paper's scale (244,140 steps). A run too short for them uses the
    fraction beside each instead: the effective warm-up is min(steps, fraction · all steps). A fraction of 1 never
    shortens, and then a run shorter than its warm-ups is an error.
    """

    lr: float = 3e-4
    lr_warmup_steps: int = 1000
    lr_warmup_fraction: float = 0.05
    lr_decay_fraction: float = 0.2  # the learning rate falls to 0 over this last part of the run
    sparsity_coefficient: float = 1.0  # λ_max of λ(t)·(L0/target − 1)²
    sparsity_warmup_steps: int = 5000
    sparsity_warmup_fraction: float = 0.1
    threshold_lr: float = 1.0  # θ's learning rate as a multiple of lr
    bandwidth: float = 0.001  # ε of the straight-through window
    step_on: str = "pre"  # L0's step function looks at pre-activations; "post": at JumpReLU's output (reference)
    positive_threshold: bool = True  # keep θ > 0; false: θ is free, as in the reference
    bias: str = "separate"  # or "shared": one bias, subtracted and added (paper, eq. 1-2)
    adam_beta2: float = 0.999  # β₁ is 0
    adam_eps: float = 1e-8
    grad_clip_norm: float = 1.0
    # Gradients in closed form: on a CPU over active pairs (saemd.sae.fast), on a GPU in bfloat16 (saemd.sae.half).
    fast: bool = True  # false: the plain reference, autograd in float32


def check_recipe(recipe: RecipeConfig) -> None:
    """Raises `UserError` for a value outside its range."""
    for key in ("lr", "bandwidth", "grad_clip_norm", "adam_eps", "threshold_lr"):
        if not 0 < getattr(recipe, key) < math.inf:
            raise bad_value(f"recipe.{key}", getattr(recipe, key), "use a positive number")
    for key in ("lr_warmup_fraction", "lr_decay_fraction", "sparsity_warmup_fraction"):
        if not 0 <= getattr(recipe, key) <= 1:
            raise bad_value(f"recipe.{key}", getattr(recipe, key), "use a fraction from 0 to 1")
    for key in ("lr_warmup_steps", "sparsity_warmup_steps", "sparsity_coefficient"):
        if not 0 <= getattr(recipe, key) < math.inf:
            raise bad_value(f"recipe.{key}", getattr(recipe, key), "use 0 or more")
    if not 0 <= recipe.adam_beta2 < 1:
        raise bad_value("recipe.adam_beta2", recipe.adam_beta2, "use a number from 0 to below 1")
    if recipe.step_on not in ("pre", "post"):
        raise bad_value("recipe.step_on", recipe.step_on, "known are pre, post")
    if recipe.bias not in ("separate", "shared"):
        raise bad_value("recipe.bias", recipe.bias, "known are separate, shared")
