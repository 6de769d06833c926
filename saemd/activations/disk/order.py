"""The order of tokens: a function of seed, epoch, window and slice alone.

An epoch lays its shards end to end in a random order, as one line. The line is cut into windows, each window into
slices, and the slices of a window are put in a random order. A shard's tokens were permuted when they were written, so
a slice is a random draw from its shard's contexts, and is read in one piece.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, count
from typing import NamedTuple

import numpy as np

from saemd.activations.disk.manifest import Shard


class Part(NamedTuple):
    """`tokens` of a shard from its token `first` on."""

    shard: Shard
    first: int
    tokens: int

    def cut(self, size: int) -> Iterator[Part]:
        """Parts of `size` tokens; the last may be smaller."""
        for start in range(0, self.tokens, size):
            yield Part(self.shard, self.first + start, min(size, self.tokens - start))


class Line:
    """An epoch's shards in their order, laid end to end."""

    def __init__(self, shards: list[Shard], seed: int, epoch: int) -> None:
        order = np.random.default_rng([seed, epoch, 0]).permutation(len(shards))
        self.shards = [shards[i] for i in order]
        self._ends = list(accumulate(shard.tokens for shard in self.shards))

    def parts(self, start: int, tokens: int) -> Iterator[Part]:
        """The line's tokens from `start` on; fewer where it ends."""
        for i in range(bisect_right(self._ends, start), len(self.shards)):
            if tokens <= 0:
                return
            shard = self.shards[i]
            first = start - (self._ends[i] - shard.tokens)
            part = Part(shard, first, min(tokens, shard.tokens - first))
            yield part
            start += part.tokens
            tokens -= part.tokens


def slices(shards: list[Shard], seed: int, window_tokens: int, slice_tokens: int, token: int) -> Iterator[Part]:
    """Slices from the stream's token `token` on, epoch after epoch, without end."""
    n = sum(shard.tokens for shard in shards)
    size = min(window_tokens, n)
    first_epoch, offset = divmod(token, n)
    for epoch in count(first_epoch):
        line = Line(shards, seed, epoch)
        for start in range(offset - offset % size, n, size):
            window = [piece for part in line.parts(start, size) for piece in part.cut(slice_tokens)]
            order = np.random.default_rng([seed, epoch, start + 1]).permutation(len(window))
            yield from _after(offset - start, (window[i] for i in order))
        offset = 0


def _after(tokens: int, parts: Iterable[Part]) -> Iterator[Part]:
    """The parts without their first `tokens` tokens."""
    for part in parts:
        if tokens < part.tokens:
            skipped = max(tokens, 0)
            yield Part(part.shard, part.first + skipped, part.tokens - skipped)
        tokens -= part.tokens


def share(parts: Iterable[Part], rank: int, size: int) -> list[Part]:
    """The parts of a batch that process `rank` takes, where each process takes `size` tokens."""
    return next(batched(_after(rank * size, parts), size))


def batched(parts: Iterable[Part], batch_size: int) -> Iterator[list[Part]]:
    """Parts that make up a batch, one batch after another; the last may be smaller."""
    batch, room = [], batch_size
    for shard, first, tokens in parts:
        while tokens:
            taken = min(tokens, room)
            batch.append(Part(shard, first, taken))
            first, tokens, room = first + taken, tokens - taken, room - taken
            if not room:
                yield batch
                batch, room = [], batch_size
    if batch:
        yield batch
