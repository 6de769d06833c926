"""The keys `activations.…`: how many tokens are cached, how they are written, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass

from saemd.errors import bad_value

LM_DTYPES = ("auto", "float32", "bfloat16")


@dataclass
class ActivationsConfig:
    """Writing (all but the last two keys) and reading of the activation cache. Sizes are in tokens."""

    tokens: int = 1_000_000  # training tokens to cache; a run with more `tokens` makes several epochs
    heldout_tokens: int = 50_000  # tokens of held-out documents, for validation
    context_length: int = 256
    lm_batch_tokens: int = 2048  # per forward pass of the language model; changes speed and memory, not the cache
    shard_tokens: int = 65_536  # at most this many per file; a killed run repeats at most this many
    outlier_factor: float | None = 10.0  # drop tokens whose norm exceeds this many medians; null keeps all
    lm_dtype: str = "auto"  # the language model's: float32, bfloat16, or the faster one on this machine
    window_tokens: int = 1_048_576  # slices of shards are permuted within windows of this size when read
    prefetch_batches: int = 4  # made ahead by threads; 0: no thread; memory holds two batches more


def check_activations(config: ActivationsConfig) -> None:
    """Raises `UserError` for a value outside its range."""
    for key in ("tokens", "heldout_tokens", "lm_batch_tokens", "window_tokens"):
        if getattr(config, key) < 1:
            raise bad_value(f"activations.{key}", getattr(config, key), "use at least 1")
    if config.context_length < 2:
        raise bad_value("activations.context_length", config.context_length, "use at least 2 (the paper: 1024)")
    if config.shard_tokens < config.context_length:
        raise bad_value(
            "activations.shard_tokens", config.shard_tokens, f"use at least context_length={config.context_length}"
        )
    if config.outlier_factor is not None and not config.outlier_factor > 1:
        raise bad_value("activations.outlier_factor", config.outlier_factor, "use more than 1, or null to keep all")
    if config.lm_dtype not in LM_DTYPES:
        raise bad_value("activations.lm_dtype", config.lm_dtype, f"known are {', '.join(LM_DTYPES)}")
    if config.prefetch_batches < 0:
        raise bad_value("activations.prefetch_batches", config.prefetch_batches, "use 0 or more")
