"""A finished activation cache on disk, read without the language model or the corpus: the usual `Source`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saemd.activations import shards
from saemd.activations.batch import BatchPlan, readers
from saemd.activations.config import ActivationsConfig
from saemd.activations.manifest import Manifest, Shard, read_manifest
from saemd.activations.order import Part, batched, slices
from saemd.activations.shards import ShardFile, disk_bytes
from saemd.activations.stream import BatchStream, Maker
from saemd.errors import UserError, bad_value

_OPEN_SHARDS = 64  # files kept open: those of the current windows
_SAMPLE_SHARDS = 8  # a sample comes from at least this many shards; each holds tokens of many documents
SLICES = 8  # in a batch: fewer are read faster, more come from more shards
_ANNOUNCED_BYTES = 32_000_000  # announced to the disk before they are read
_MOST_ANNOUNCED = 32  # batches, which keep their shards open


class ActivationCache:
    """Activations on disk, and their statistics: see `saemd.activations.source.Source` for what each figure means.

    Its stream permutes slices of shards within windows of `window_tokens` (`saemd.activations.order`). The stream's
    memory is that of its batches, whatever the window. What the disk reads early waits in the system's page cache.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        verify: bool,
        window_tokens: int = ActivationsConfig.window_tokens,
        prefetch_batches: int = ActivationsConfig.prefetch_batches,
    ) -> None:
        self.path, self.manifest, self.origin, self.verify = path, manifest, manifest.origin, verify
        self.window_tokens, self.prefetch_batches = window_tokens, prefetch_batches
        self.fingerprint = manifest.fingerprint
        self.d_in = manifest.origin.d_in
        self.n_train = manifest.splits["train"].tokens
        self.n_heldout = manifest.splits["heldout"].tokens
        self.scale = math.sqrt(manifest.statistics.mean_squared_norm)
        self.mean = torch.tensor(manifest.statistics.mean, dtype=torch.float32)
        self._opened = lru_cache(_OPEN_SHARDS)(partial(_open_shard, path, self.d_in, verify))

    @classmethod
    def open(cls, path: Path | str, verify: bool = False, **reading: int) -> ActivationCache:
        """Read the manifest and check every shard's size. `reading` is `window_tokens` and `prefetch_batches`.

        The first time that a process reads a shard, it checks it for NaN and Inf, with `verify` for its checksum too.
        Raises `UserError` for an unfinished cache, and for a shard that is missing, truncated, corrupt or foreign.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest.fingerprint != manifest.origin.fingerprint:
            raise UserError(f"{path}: the manifest contradicts its fingerprint; delete it and write the cache again")
        cache = cls(path, manifest, verify, **reading)
        if not cache.scale > 0:
            raise UserError(f"{path}: every cached activation is 0; delete it and write the cache of another layer")
        for split in manifest.splits.values():
            for shard in split.shards:
                shards.check_size(path / shard.file, shard.tokens, cache.d_in)
        return cache

    def summary(self) -> dict[str, Any]:
        """What a run records of the cache it was trained on."""
        return {
            "fingerprint": self.fingerprint,
            "lm": self.origin.lm,
            "layer": self.origin.layer,
            "corpus": self.origin.corpus,
            "context_length": self.origin.context_length,
            "lm_dtype": self.manifest.lm_dtype,
            "d_in": self.d_in,
            "n_train": self.n_train,
            "n_heldout": self.n_heldout,
            "scale": self.scale,
        }

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """`n` different random training tokens, float32 [n, D] in raw units, or all of them if there are fewer.

        They come from a few random shards, so that a sample of a large cache does not read all of it.
        """
        assert n > 0
        draw = np.random.default_rng([seed, n])
        train = self.manifest.splits["train"].shards
        order = [train[i] for i in draw.permutation(len(train))]
        chosen: list[Shard] = []
        while order and (len(chosen) < _SAMPLE_SHARDS or sum(shard.tokens for shard in chosen) < n):
            chosen.append(order.pop())
        first = np.cumsum([0] + [shard.tokens for shard in chosen])
        picked = np.sort(draw.choice(first[-1], size=min(n, first[-1]), replace=False))
        parts = []
        for shard, start in zip(chosen, first, strict=False):
            rows = picked[(picked >= start) & (picked < start + shard.tokens)] - start
            parts.append(self._bits(shard)[rows])
        return torch.from_numpy(shards.to_float(draw.permutation(np.concatenate(parts))))

    def stream(self, batch_size: int, tokens: int, seed: int, rank: int = 0, world: int = 1) -> BatchStream:
        """See `Source.stream`. Epochs follow each other without a gap: a batch may hold the end of one and the start
        of the next. Raises `UserError` where the tokens do not fill a batch of every process.
        """
        _check_batch_size(batch_size)
        if tokens < batch_size * world:
            processes = f" for each of {world} processes" if world > 1 else ""
            raise bad_value("tokens", tokens, f"use at least one batch{processes}, batch_size={batch_size}")
        if self.n_train < batch_size:
            raise bad_value("batch_size", batch_size, f"the cache has {self.n_train} tokens; raise activations.tokens")
        if seed < 0:
            raise bad_value("seed", seed, "use 0 or more")
        if self.window_tokens < 1:
            raise bad_value("activations.window_tokens", self.window_tokens, "use at least 1")
        slice_tokens = -(-batch_size // SLICES)
        announced = 1 + min(_ANNOUNCED_BYTES // disk_bytes(batch_size, self.d_in), _MOST_ANNOUNCED)
        n_batches = tokens // batch_size // world

        def makers(begin: int) -> Iterator[Maker]:
            token = begin * world * batch_size
            parts = slices(self.manifest.splits["train"].shards, seed, self.window_tokens, slice_tokens, token)
            mine = islice(batched(parts, batch_size), rank, (n_batches - begin) * world, world)
            return readers(map(self.plan, mine), self.factor, announced)

        order = {
            "cache": self.fingerprint,
            "seed": seed,
            "batch_size": batch_size,
            "window_tokens": self.window_tokens,
            "slice_tokens": slice_tokens,
            "world": world,
        }
        return BatchStream(makers, n_batches, order, self.prefetch_batches)

    def heldout(self, batch_size: int) -> HeldoutBatches:
        """See `Source.heldout`. Raises `UserError` for a batch size below 1."""
        _check_batch_size(batch_size)
        return HeldoutBatches(self, batch_size)

    @property
    def factor(self) -> np.float32:
        """Raw activations times this have a mean squared norm of 1."""
        return np.float32(1 / self.scale)

    def plan(self, parts: list[Part]) -> BatchPlan:
        """The batch of these parts. Nothing is read yet."""
        return BatchPlan([(self._opened(shard), first, tokens) for shard, first, tokens in parts])

    def _bits(self, shard: Shard) -> np.ndarray:
        """A whole shard's tokens as uint16 [N, D], checked."""
        bits_ND = np.empty((shard.tokens, self.d_in), dtype=np.uint16)
        file = self._opened(shard)
        file.check()
        file.read(0, bits_ND)
        return bits_ND


class HeldoutBatches:
    """All held-out tokens once per iteration, float32 [B, D] divided by `scale`; the last batch may be smaller."""

    def __init__(self, cache: ActivationCache, batch_size: int) -> None:
        self.cache, self.batch_size = cache, batch_size

    def __len__(self) -> int:
        return -(-self.cache.n_heldout // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        shards = self.cache.manifest.splits["heldout"].shards
        for parts in batched((Part(shard, 0, shard.tokens) for shard in shards), self.batch_size):
            yield self.cache.plan(parts).read(self.cache.factor)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise bad_value("batch_size", batch_size, "use at least 1")


def _open_shard(path: Path, d_in: int, verify: bool, shard: Shard) -> ShardFile:
    return ShardFile(path / shard.file, shard.tokens, d_in, shard.sha256 if verify else None)
