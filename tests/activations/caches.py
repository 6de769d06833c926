"""Small caches for tests: made-up contexts, and activations from which a token's number can be read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import MANIFEST, SPLITS, Origin, SplitName
from saemd.activations.harvest.write import begin, write_shards

D = 8
HELDOUT = 1_000_000  # held-out tokens are numbered from here
CONFIG = ActivationsConfig(
    tokens=3000, heldout_tokens=300, context_length=16, lm_batch_tokens=64, shard_tokens=512, outlier_factor=10.0
)


def contexts(split: str, n: int = 500, length: int = CONFIG.context_length) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens numbered through; the first of each context stands for BOS and is not kept."""
    first = HELDOUT if split == "heldout" else 0
    keep = torch.arange(length) > 0
    for i in range(n):
        yield torch.arange(first + i * length, first + (i + 1) * length), keep


def forward(ids_BT: Tensor) -> Tensor:
    """Numbers in base 100 in four values, four ones; every number divisible by 97 is an outlier; exact in bfloat16."""
    digits = torch.stack([ids_BT // 100**k % 100 for k in range(4)], dim=-1)
    acts = torch.cat([digits, torch.ones_like(digits)], dim=-1).float()
    return torch.where((ids_BT % 97 == 0)[..., None], acts * 1024 + 1024, acts)


def numbers(x_BD: Tensor) -> list[int]:
    """The tokens' numbers, from raw activations."""
    return (x_BD[:, :4].double().round() @ torch.tensor([100.0**k for k in range(4)]).double()).long().tolist()


def origin(config: ActivationsConfig = CONFIG, **changes: object) -> Origin:
    values = {key: getattr(config, key) for key in ("context_length", "tokens", "heldout_tokens", "shard_tokens")}
    base = Origin("tiny/lm", "a", 1, D, "made-up", "b", outlier_factor=config.outlier_factor, lm_dtype="auto", **values)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def write_cache(
    folder: Path, origin: Origin, config: ActivationsConfig, contexts: Any, forward: Any, dtype: str, workers: int = 1
) -> None:
    """As `saemd.activations.harvest.open.ensure_cache`, of any contexts and activations."""
    if not (folder / MANIFEST).is_file():
        write_shards(begin(folder, origin, config, contexts, dtype), config, contexts, forward, workers)


def write(
    folder: Path,
    config: ActivationsConfig = CONFIG,
    forward: Callable[[Tensor], Tensor] = forward,
    n_contexts: int = 500,
    workers: int = 1,
) -> Path:
    sources: dict[SplitName, partial] = {split: partial(contexts, split, n_contexts) for split in SPLITS}
    write_cache(folder, origin(config), config, sources, forward, "float32", workers)
    return folder


def make(folder: Path, **changes: object) -> ActivationCache:
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return ActivationCache.open(write(folder, config), verify=True)
