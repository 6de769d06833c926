"""Which jobs of a sweep are trained together, as one stack of SAEs."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from saemd.activations.config import ActivationsConfig, OnlineConfig
from saemd.activations.disk.shards import disk_bytes
from saemd.activations.memory.open import RESIDENT_SHARE
from saemd.activations.sizes import free_memory
from saemd.config import Config, width
from saemd.errors import bad_value
from saemd.lm.load import lm_info
from saemd.runs import flatten
from saemd.training.devices import training_device

# What the SAEs of a stack may differ in. All else decides shapes, objective, batches or the optimizer's form.
_OWN = {
    "l0", "seed", "init_seed", "data_seed", "documents", "corpus.part", "run_root", "recipe.lr",
    "recipe.lr_warmup_steps", "recipe.lr_warmup_fraction", "recipe.lr_decay_fraction", "recipe.adam_beta2",
    "recipe.adam_eps", "recipe.grad_clip_norm", "recipe.lr_decay", "recipe.lr_final", "recipe.encoder_decay",
    "recipe.encoder_decay_until", "recipe.freeze_decoder_after", "recipe.freeze_encoder_after", "recipe.decoder_cosine",
    "recipe.l0_start", "recipe.l0_fall_fraction", "recipe.resample_steps", "recipe.resample_until", "together",
}  # fmt: skip
_OWN_GROUPS = ("init.", "folder.", "logger.")
FREE_SHARE = 0.9  # of the free memory; the rest is for what the estimate leaves out


def stacks(configs: Sequence[Config], step_of: Callable[[Config], int]) -> list[list[Config]]:
    """The jobs in stacks of at most `together`, in their order. A stack's checkpoints stand at one step."""
    groups: dict[Any, list[Config]] = {}
    for config in configs:
        groups.setdefault((_common(config), step_of(config)), []).append(config)
    parts = []
    for group in groups.values():
        size = group[0].together
        assert isinstance(size, int)
        parts += [group[i : i + size] for i in range(0, len(group), size)]
    return parts


def _common(config: Config) -> tuple[tuple[str, str], ...]:
    own = _OWN
    if isinstance(config.activations, OnlineConfig):  # each order of each part is harvested anew
        own = own - {"data_seed", "corpus.part"}
    values = flatten(dataclasses.asdict(config)).items()
    return tuple((key, repr(value)) for key, value in values if key not in own and not key.startswith(_OWN_GROUPS))


def stack_bytes(config: Config, d_in: int, d_sae: int) -> int:
    """Memory of one SAE in a stack, an estimate.

    Two matrices [d_in, d_sae] with Adam's moments and the weights at the start, in float32; on a GPU their gradients,
    those of the step before and the rounded copies in bfloat16. Held rows have one copy of W_dec's start more. Of a
    batch: the pre-activations, latents and their gradients [B, d_sae].
    """
    per_weight, per_latent = (18, 10) if training_device(config).type == "cuda" else (20, 28)
    held = 4 * d_in * d_sae if config.recipe.decoder_cosine > -1 else 0
    return held + per_weight * 2 * d_in * d_sae + per_latent * config.batch_size * d_sae + 16 * config.batch_size * d_in


def stack_size(config: Config, parts: int = 1) -> int:
    """How many SAEs a stack has at most, whose activations are of so many parts of the documents.

    Raises `UserError` where `together` of them do not fit into the memory.
    """
    info, device = lm_info(config.lm, Path(config.cache_root)), training_device(config)
    each, available = stack_bytes(config, info.d_model, width(config, info.mlp_width)), free_memory(device)
    if device.type == "cuda" and isinstance(config.activations, ActivationsConfig):
        cached = parts * disk_bytes(config.activations.tokens + config.activations.heldout_tokens, info.d_model)
        available -= cached if cached <= RESIDENT_SHARE * available else 0
    most = max(1, int(FREE_SHARE * available / each))
    if config.together == "auto":
        return most if device.type == "cuda" else 1  # on a CPU an SAE alone is faster
    assert isinstance(config.together, int)
    if config.together > most:
        memory = f"so many SAEs take {config.together * each / 1e9:.1f} GB, {available / 1e9:.1f} GB of memory are free"
        raise bad_value("together", config.together, f"{memory}; {most} would fit")
    return config.together
