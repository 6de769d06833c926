"""The keys `activations.…` of each source of activations, an option of the group `activations`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saemd.errors import bad_value

LM_DTYPES = ("auto", "float32", "bfloat16")
DEVICES = ("cpu", "gpu")
RESIDUAL, MLP_OUT = "residual", "mlp_out"
# The names that TransformerLens (hook_<name>) and dictionary_learning (<name>_layer_12) have for them.
HOOKS: Mapping[str, str] = {RESIDUAL: "resid_post", MLP_OUT: "mlp_out"}
MISSING: Any = "???"  # as omegaconf writes it, which is not needed to read activations


@dataclass
class HarvestConfig:
    """The keys that every source has: what the language model is run on. Sizes are in tokens."""

    tokens: int = 1_000_000  # training tokens in an epoch; a run with more `tokens` makes several epochs
    heldout_tokens: int = 50_000  # tokens of held-out documents, for validation
    # What is read at the layer: residual (the residual stream behind it) or mlp_out (what its MLP adds, behind the
    # post-norm if there is one).
    hook: str = RESIDUAL
    context_length: int = 256
    lm_batch_tokens: int = 2048  # per forward pass of the language model; changes speed and memory, not the content
    shard_tokens: int = 65_536  # at most this many per file; a killed harvest repeats at most this many
    outlier_factor: float | None = 10.0  # drop tokens whose norm exceeds this many medians; null keeps all
    lm_dtype: str = "auto"  # the language model's: float32, bfloat16, or the faster one on this machine


@dataclass
class ActivationsConfig(HarvestConfig):
    """Written to the disk once, and read by every run that needs the same activations. The default."""

    window_tokens: int = 1_048_576  # slices of shards are permuted within windows of this size when read
    prefetch_batches: int = 4  # made ahead by threads; 0: no thread; memory holds two batches more
    # Of activations in a store (cache_root=s3://…), at most so many GB lie on this machine's disk; the oldest go first.
    local_gigabytes: float = 20.0


@dataclass
class MemoryConfig(ActivationsConfig):
    """Held in memory by each process. A run from memory is the run from the cache: the same numbers, the same order."""

    name: str = "memory"
    device: str = "cpu"  # whose memory: cpu, or gpu


@dataclass
class OnlineConfig(HarvestConfig):
    """Harvested while the SAE trains, through a shuffle buffer in memory.

    The disk holds the tokenised text (4 bytes a token) and a cache of the first training tokens and the held-out ones.
    """

    tokens: int = MISSING  # training tokens in an epoch; by default the run's `tokens`: every token comes once
    name: str = "online"
    buffer_tokens: int = 524_288  # in memory: one half is served, in random order, while the other one is harvested
    device: str = "cpu"  # whose memory holds the buffer: cpu, or gpu
    prefetch_batches: int = 4  # made ahead by threads; 0: no thread, and training waits while a block is harvested


# The cache has no `name`, since runs of earlier versions have none in their `config.yaml`.
SCHEMAS: Mapping[str, type[HarvestConfig]] = {
    "cache": ActivationsConfig,
    "memory": MemoryConfig,
    "online": OnlineConfig,
}


def schema(values: Mapping[str, Any]) -> type[HarvestConfig]:
    """The class of saved keys, by their `name`. Raises `UserError` for a source that does not exist."""
    name = values.get("name", "cache")
    if name not in SCHEMAS:
        raise bad_value("activations.name", name, f"known are {', '.join(SCHEMAS)}")
    return SCHEMAS[name]


def check_activations(config: HarvestConfig) -> None:
    """Raises `UserError` for a value outside its range."""
    for key in ("tokens", "heldout_tokens", "lm_batch_tokens", "window_tokens"):
        if getattr(config, key, 1) < 1:
            raise bad_value(f"activations.{key}", getattr(config, key), "use at least 1")
    if config.hook not in HOOKS:
        raise bad_value("activations.hook", config.hook, f"known are {', '.join(HOOKS)}")
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
    if (prefetch := getattr(config, "prefetch_batches", 0)) < 0:
        raise bad_value("activations.prefetch_batches", prefetch, "use 0 or more")
    if not (gigabytes := getattr(config, "local_gigabytes", 1.0)) > 0:
        raise bad_value("activations.local_gigabytes", gigabytes, "use more than 0")
    if (device := getattr(config, "device", "cpu")) not in DEVICES:
        raise bad_value("activations.device", device, f"known are {', '.join(DEVICES)}")
    if (buffer := getattr(config, "buffer_tokens", None)) is not None and buffer < 2 * config.context_length:
        remedy = f"use at least two contexts, {2 * config.context_length}"
        raise bad_value("activations.buffer_tokens", buffer, remedy)
    if SCHEMAS.get(name := getattr(config, "name", "cache")) is not type(config):
        raise bad_value("activations.name", name, "leave it out; activations=… chooses the source")
