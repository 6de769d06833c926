"""Online activations, opened: the small cache of the first and the held-out ones, the tokenised text, the buffer."""

import dataclasses
import os
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from saemd.activations.config import ActivationsConfig, HarvestConfig, OnlineConfig, check_activations
from saemd.activations.disk.manifest import Origin
from saemd.activations.disk.shards import disk_bytes
from saemd.activations.disk.statistics import norms
from saemd.activations.harvest.kept import kept_bits
from saemd.activations.harvest.open import LMOnText, describe, ensure_cache, lm_device
from saemd.activations.memory.open import rows_device
from saemd.activations.online.activations import OnlineActivations, block_tokens
from saemd.activations.online.contexts import open_contexts
from saemd.activations.sizes import free_memory, human
from saemd.corpus.config import CorpusConfig
from saemd.errors import bad_value
from saemd.lm.config import LMConfig
from saemd.progress import print_line

STATISTICS_TOKENS = 131_072  # the first training tokens, which give scale, mean and the outliers' limit
_HEADROOM = 1.1  # of free memory over what the buffer takes


def open_online(
    lm_config: LMConfig,
    layer: int,
    corpus_config: CorpusConfig,
    config: OnlineConfig,
    cache_root: Path,
    *,
    accelerator: str = "auto",
) -> OnlineActivations:
    """The activations of layer `layer`'s output, from a language model that is loaded with the first batch.

    The first call with these settings writes the small cache and the tokenised text. Raises `UserError` where the
    buffer does not fit into memory, and as `ensure_cache` and `open_contexts` do.
    """
    check_activations(config)
    origin = describe(lm_config, layer, corpus_config, config, cache_root)
    check_buffer(origin, config)
    first = ensure_cache(lm_config, layer, corpus_config, first_config(config), cache_root, accelerator=accelerator)
    lm_dtype = first.manifest.lm_dtype  # also where another one has become the faster one
    lm_place = lm_device(accelerator)
    lm = LMOnText(lm_config, layer, corpus_config, config, cache_root, lm_place, lm_dtype)
    store = open_contexts(origin, cache_root, lm.training_contexts)
    if store.tokens < origin.tokens:
        print_line(
            f"corpus={origin.corpus} ended after {store.tokens:,} of the {origin.tokens:,} train tokens asked for; an "
            "epoch has these"
        )
    limit = first.manifest.outliers.limit_or_inf
    stream = torch.cuda.Stream() if lm_place == "cuda" else None  # so that the training step's kernels run in between

    def harvest(ids_BT: Tensor, keep_BT: Tensor) -> Tensor:
        with torch.cuda.stream(stream) if stream else nullcontext():
            bits_ND = kept_bits(lm.forward, ids_BT, keep_BT, origin, lm_dtype, "training")
        return torch.from_numpy(bits_ND[norms(bits_ND) <= limit]).view(torch.bfloat16)

    # On the cores that the training step uses, the language model would slow it down by as much as it gains.
    has_free_core = torch.get_num_threads() < len(os.sched_getaffinity(0))
    overlaps = lm_place == "cuda" or has_free_core
    return OnlineActivations(first, origin, store, harvest, config, rows_device(config.device), overlaps)


def first_config(config: OnlineConfig) -> ActivationsConfig:
    """The settings of the small cache: whole shards at its start, so that the outliers' limit is the full cache's."""
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(HarvestConfig)}
    shared["tokens"] = min(config.tokens, max(STATISTICS_TOKENS, config.shard_tokens))
    return ActivationsConfig(**shared)


def check_buffer(origin: Origin, config: OnlineConfig) -> None:
    """Raise `UserError` where the buffer does not fit into the memory that is free."""
    device = rows_device(config.device)
    buffered = 2 * min(block_tokens(config), config.tokens)
    needed, free = int(_HEADROOM * disk_bytes(buffered, origin.d_in)), free_memory(device)
    if needed > free:
        where = "the GPU" if device.type == "cuda" else "this machine"
        sizes = f"the buffer takes {human(needed)} of memory and {where} has {human(free)} free"
        raise bad_value("activations.buffer_tokens", config.buffer_tokens, f"{sizes}; use a smaller buffer")
