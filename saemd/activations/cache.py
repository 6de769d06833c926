"""A finished activation cache, read without the language model or the corpus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saemd.activations import shards
from saemd.activations.batch import BatchPlan
from saemd.activations.manifest import Manifest, Shard, SplitName, read_manifest
from saemd.activations.order import Part, batched
from saemd.activations.shards import ShardFile
from saemd.errors import UserError, bad_value

_OPEN_SHARDS = 64  # files kept open: those of the windows at hand
_SAMPLE_SHARDS = 8  # a sample comes from this many shards where they suffice; each holds tokens of many documents


class ActivationCache:
    """Activations on disk and what is known of them.

    `scale` is the one scalar that activations are divided by to make their mean squared norm 1; `mean` [D] is in raw
    units; both are over the training tokens.
    """

    def __init__(self, path: Path, manifest: Manifest, verify: bool) -> None:
        self.path, self.manifest, self.verify = path, manifest, verify
        self.fingerprint = manifest.fingerprint
        self.d_in = manifest.origin.d_in
        self.n_train = manifest.splits["train"].tokens
        self.n_heldout = manifest.splits["heldout"].tokens
        self.scale = math.sqrt(manifest.statistics.mean_squared_norm)
        self.mean = torch.tensor(manifest.statistics.mean, dtype=torch.float32)
        self._opened = lru_cache(_OPEN_SHARDS)(partial(_open_shard, path, self.d_in, verify))

    @classmethod
    def open(cls, path: Path | str, verify: bool = False) -> ActivationCache:
        """Read the manifest and check every shard's size.

        When a process first reads from a shard it is checked for NaN and Inf, with `verify` for its checksum too.
        Raises `UserError` for a cache that is not finished, or a shard that is missing, truncated, corrupt or foreign.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest.fingerprint != manifest.origin.fingerprint:
            raise UserError(f"{path}: the manifest contradicts its fingerprint; delete it and write the cache again")
        cache = cls(path, manifest, verify)
        if not cache.scale > 0:
            raise UserError(f"{path}: every cached activation is 0; delete it and write the cache of another layer")
        for split in manifest.splits.values():
            for shard in split.shards:
                shards.check_size(path / shard.file, shard.tokens, cache.d_in)
        return cache

    def summary(self) -> dict[str, Any]:
        """What a run records of the cache it was trained on."""
        origin = self.manifest.origin
        return {
            "fingerprint": self.fingerprint,
            "lm": origin.lm,
            "layer": origin.layer,
            "corpus": origin.corpus,
            "context_length": origin.context_length,
            "lm_dtype": self.manifest.lm_dtype,
            "d_in": self.d_in,
            "n_train": self.n_train,
            "n_heldout": self.n_heldout,
            "scale": self.scale,
        }

    def read(self, shard: Shard, start: int, out_ND: np.ndarray) -> None:
        """Fill `out_ND` (uint16) with a shard's tokens from `start` on; the first time, check the shard."""
        file = self._opened(shard)
        file.check()
        file.read(start, out_ND)

    def plans(self, parts: Iterable[Part], batch_size: int) -> Iterator[BatchPlan]:
        """Batches of the parts' tokens, one after another; the last may be smaller. Nothing is read yet."""
        for batch in batched(parts, batch_size):
            yield BatchPlan([(self._opened(shard), first, tokens) for shard, first, tokens in batch])

    @property
    def factor(self) -> np.float32:
        """What raw activations are multiplied by for a mean squared norm of 1."""
        return np.float32(1 / self.scale)

    def sample(self, n: int, split: SplitName = "train", seed: int = 0) -> Tensor:
        """`n` different random tokens [n, D] float32 in raw units, or all there are where `n` is more.

        They come from a few random shards, so that a sample of a large cache does not read all of it.
        """
        assert n > 0
        draw = np.random.default_rng([seed, n])
        there = self.manifest.splits[split].shards
        order = [there[i] for i in draw.permutation(len(there))]
        chosen: list[Shard] = []
        while order and (len(chosen) < _SAMPLE_SHARDS or sum(shard.tokens for shard in chosen) < n):
            chosen.append(order.pop())
        first = np.cumsum([0] + [shard.tokens for shard in chosen])
        picked = np.sort(draw.choice(first[-1], size=min(n, first[-1]), replace=False))
        parts = []
        for shard, start in zip(chosen, first, strict=False):
            rows = picked[(picked >= start) & (picked < start + shard.tokens)] - start
            bits_ND = np.empty((shard.tokens, self.d_in), dtype=np.uint16)
            self.read(shard, 0, bits_ND)
            parts.append(bits_ND[rows])
        return torch.from_numpy(shards.to_float(draw.permutation(np.concatenate(parts))))

    def heldout_batches(self, batch_size: int) -> Iterator[Tensor]:
        """Every held-out token once, in a fixed order: float32 [B, D] divided by `scale`; the last may be smaller."""
        if batch_size < 1:
            raise bad_value("batch_size", batch_size, "use at least 1")

        whole = (Part(shard, 0, shard.tokens) for shard in self.manifest.splits["heldout"].shards)
        for plan in self.plans(whole, batch_size):
            yield plan.read(self.factor)


def _open_shard(path: Path, d_in: int, verify: bool, shard: Shard) -> ShardFile:
    return ShardFile(path / shard.file, shard.tokens, d_in, shard.sha256 if verify else None)
