"""What the cache on disk and the activations in memory share: a source whose activations lie in permuted shards."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saemd.activations.disk import shards
from saemd.activations.disk.manifest import Manifest, Shard
from saemd.activations.disk.order import Part, batched, share, slices
from saemd.activations.streams.stream import BatchStream, Maker
from saemd.errors import bad_value

_SAMPLE_SHARDS = 8  # a sample comes from at least this many shards; each holds tokens of many documents
SLICES = 8  # in a batch: fewer are read faster, more come from more shards


class ShardedSource(ABC):
    """Activations in shards, and their statistics: see `saemd.activations.source.Source` for what each figure means.

    Its stream permutes slices of shards within windows of `window_tokens` (see `order`). The batches are the same
    numbers wherever the shards are.
    """

    def __init__(self, manifest: Manifest, window_tokens: int, prefetch_batches: int) -> None:
        self.manifest, self.origin = manifest, manifest.origin
        self.window_tokens, self.prefetch_batches = window_tokens, prefetch_batches
        self.fingerprint = manifest.fingerprint
        self.d_in = manifest.origin.d_in
        self.n_train = manifest.splits["train"].tokens
        self.n_heldout = manifest.splits["heldout"].tokens
        self.scale = math.sqrt(manifest.statistics.mean_squared_norm)
        self.mean = torch.tensor(manifest.statistics.mean, dtype=torch.float32)

    @property
    def factor(self) -> np.float32:
        """Raw activations times this have a mean squared norm of 1."""
        return np.float32(1 / self.scale)

    @abstractmethod
    def makers(self, batches: Iterator[list[Part]], batch_size: int, raw: bool) -> Iterator[Maker]:
        """A function for each batch of `batch_size` tokens that makes it, as `make` or, raw, as stored: bfloat16."""

    @abstractmethod
    def make(self, parts: list[Part]) -> Tensor:
        """The batch of these parts, float32 [B, D] times `factor`."""

    @abstractmethod
    def bits(self, shard: Shard) -> np.ndarray:
        """A whole shard's activations as bfloat16 bits [N, D]."""

    def summary(self) -> dict[str, Any]:
        """What a run records of the activations it was trained on."""
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
            parts.append(self.bits(shard)[rows])
        return torch.from_numpy(shards.to_float(draw.permutation(np.concatenate(parts))))

    def stream(self, batch_size: int, tokens: int, seed: int, rank: int = 0, world: int = 1) -> BatchStream:
        """See `Source.stream`. Epochs follow each other without a gap: a batch may hold the end of one and the start
        of the next. Raises `UserError` where the tokens do not fill a batch.
        """
        check_stream(batch_size, tokens, seed, world)
        if self.n_train < batch_size:
            raise bad_value("batch_size", batch_size, f"an epoch has {self.n_train} tokens; raise activations.tokens")
        if self.window_tokens < 1:
            raise bad_value("activations.window_tokens", self.window_tokens, "use at least 1")
        n_batches = tokens // batch_size

        def makers(begin: int, raw: bool) -> Iterator[Maker]:
            batches = islice(self.batches(batch_size, seed, begin, rank, world), n_batches - begin)
            return self.makers(batches, batch_size // world, raw)

        order = {
            "cache": self.fingerprint,
            "seed": seed,
            "batch_size": batch_size,
            "window_tokens": self.window_tokens,
            "slice_tokens": _slice_tokens(batch_size),
            "lm_dtype": self.manifest.lm_dtype,
        }
        return BatchStream(makers, float(self.factor), n_batches, order, self.prefetch_batches)

    def batches(
        self, batch_size: int, seed: int, begin: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[list[Part]]:
        """The parts of every batch, or one process's rows, from number `begin` on, epoch after epoch, without end."""
        train = self.manifest.splits["train"].shards
        parts = slices(train, seed, self.window_tokens, _slice_tokens(batch_size), begin * batch_size)
        batches = batched(parts, batch_size)
        return batches if world == 1 else (share(batch, rank, batch_size // world) for batch in batches)

    def heldout(self, batch_size: int) -> HeldoutBatches:
        """See `Source.heldout`. Raises `UserError` for a batch size below 1."""
        check_batch_size(batch_size)
        return HeldoutBatches(self, batch_size)


class HeldoutBatches:
    """All held-out tokens once per iteration, float32 [B, D] divided by `scale`; the last batch may be smaller."""

    def __init__(self, source: ShardedSource, batch_size: int) -> None:
        self.source, self.batch_size = source, batch_size

    def __len__(self) -> int:
        return -(-self.source.n_heldout // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        split = self.source.manifest.splits["heldout"].shards
        yield from map(self.source.make, batched((Part(shard, 0, shard.tokens) for shard in split), self.batch_size))


def check_stream(batch_size: int, tokens: int, seed: int, world: int) -> None:
    """Raises `UserError` for a batch size or seed that is out of range, and for fewer tokens than a batch."""
    check_batch_size(batch_size)
    if batch_size % world:
        raise bad_value("batch_size", batch_size, f"use a multiple of the {world} processes that share it")
    if tokens < batch_size:
        raise bad_value("tokens", tokens, f"use at least one batch, batch_size={batch_size}")
    if seed < 0:
        raise bad_value("seed", seed, "use 0 or more")


def check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise bad_value("batch_size", batch_size, "use at least 1")


def _slice_tokens(batch_size: int) -> int:
    return -(-batch_size // SLICES)
