"""What `conf/recipe/` may say: the schedules and the optimizer, which all architectures share."""

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
    lr_decay_fraction: float = 0.2  # the learning rate falls over this last part of the run
    lr_decay: str = "linear"  # how it falls: linear, or cosine (half a wave)
    lr_final: float = 0.0  # where it falls to, as a fraction of lr
    adam_beta1: float | None = None  # null: the architecture's own (jumprelu and gated 0, the others 0.9)
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    grad_clip_norm: float = 1.0
    # Decoupled weight decay of the encoder: each step multiplies W_enc by 1 − encoder_decay · the step's learning rate.
    encoder_decay: float = 0.0
    encoder_decay_until: float = 1.0  # the decay ends after this fraction of the run
    freeze_decoder_after: float = 1.0  # W_dec is frozen after this fraction of the run; 0: from the start
    freeze_encoder_after: float = 1.0  # W_enc likewise; biases and θ go on
    # Least cosine of each row of W_dec with its start: after each step, rows below it are moved back (2602.14111).
    decoder_cosine: float = -1.0  # -1: rows move freely
    l0_start: float = 1.0  # the target L0 of the first step, as a multiple of l0
    l0_fall_fraction: float = 0.5  # over this first part of the run the target falls linearly to l0
    # Every so many steps, latents that were silent for as long start anew along errors (saemd.training.resampling).
    resample_steps: int = 0  # 0: dead latents stay dead
    resample_until: float = 0.8  # no resampling after this fraction of the run
    # Gradients in closed form where the architecture has a fast twin (saemd.sae.twins), Adam in few passes.
    fast: bool = True  # false: the plain reference, autograd in float32


def check_recipe(recipe: RecipeConfig) -> None:
    """Raises `UserError` for a value outside its range."""
    if not 0 <= recipe.lr < math.inf:
        raise bad_value("recipe.lr", recipe.lr, "use a positive number, or 0, with which the start is only measured")
    for key in ("grad_clip_norm", "adam_eps"):
        if not 0 < getattr(recipe, key) < math.inf:
            raise bad_value(f"recipe.{key}", getattr(recipe, key), "use a positive number")
    if recipe.lr_decay not in ("linear", "cosine"):
        raise bad_value("recipe.lr_decay", recipe.lr_decay, "known are linear, cosine")
    fractions = (
        "lr_decay_fraction", "lr_final", "encoder_decay_until", "freeze_decoder_after", "freeze_encoder_after",
        "l0_fall_fraction", "resample_until",
    )  # fmt: skip
    for key in fractions:
        if not 0 <= (value := getattr(recipe, key)) <= 1:
            raise bad_value(f"recipe.{key}", value, "use a fraction from 0 to 1")
    if not 0 <= recipe.encoder_decay * recipe.lr < 1:
        remedy = "use 0 or more, and less than 1 / recipe.lr, with which a step would leave no encoder"
        raise bad_value("recipe.encoder_decay", recipe.encoder_decay, remedy)
    if not 1 <= recipe.l0_start < math.inf:
        raise bad_value("recipe.l0_start", recipe.l0_start, "use 1 (the target stays at l0) or more")
    if not -1 <= recipe.decoder_cosine <= 1:
        raise bad_value("recipe.decoder_cosine", recipe.decoder_cosine, "use a cosine from -1 (free) to 1")
    if recipe.resample_steps < 0:
        raise bad_value("recipe.resample_steps", recipe.resample_steps, "use 0 (never) or a number of steps")
    if recipe.resample_steps and recipe.decoder_cosine > -1:
        remedy = "recipe.decoder_cosine holds rows near their start, from which a new one leads away; leave one out"
        raise bad_value("recipe.resample_steps", recipe.resample_steps, remedy)
    check_warmup("recipe", recipe, "lr")
    for key in ("adam_beta1", "adam_beta2"):
        if (value := getattr(recipe, key)) is not None and not 0 <= value < 1:
            raise bad_value(f"recipe.{key}", value, "use a number from 0 to below 1")
