"""The order of tokens: a function of seed, epoch and window alone.

An epoch's shards, in a random order, are laid end to end to a line; windows are cut off that line one after another,
and the tokens of each are put in a random order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, count

import numpy as np

from saemd.activations.manifest import Shard


class Line:
    """An epoch's shards in their order, laid end to end."""

    def __init__(self, shards: list[Shard], seed: int, epoch: int) -> None:
        order = np.random.default_rng([seed, epoch, 0]).permutation(len(shards))
        self.shards = [shards[i] for i in order]
        self._ends = list(accumulate(shard.tokens for shard in self.shards))

    def parts(self, start: int, tokens: int) -> Iterator[tuple[Shard, int, int]]:
        """(shard, its first token, tokens) of the line's tokens from `start` on; fewer where the line ends."""
        for i in range(bisect_right(self._ends, start), len(self.shards)):
            if tokens <= 0:
                return
            shard = self.shards[i]
            first = start - (self._ends[i] - shard.tokens)
            part = min(tokens, shard.tokens - first)
            yield shard, first, part
            start += part
            tokens -= part


@dataclass(frozen=True)
class Window:
    """`tokens` of an epoch's line from `start` on; `first` is its first token's place in the endless stream."""

    line: Line
    start: int
    tokens: int
    first: int
    seeds: tuple[int, int, int]

    def parts(self, begin: int = 0, tokens: int | None = None) -> Iterator[tuple[Shard, int, int]]:
        """(shard, its first token, tokens) of the window's tokens from `begin` on; fewer where it ends."""
        rest = self.tokens - begin
        return self.line.parts(self.start + begin, rest if tokens is None else min(tokens, rest))

    def order(self) -> np.ndarray:
        return np.random.default_rng(self.seeds).permutation(self.tokens)


def windows(shards: list[Shard], seed: int, window_tokens: int, token: int) -> Iterator[Window]:
    """Windows without end, from the one that holds the stream's given token on."""
    n = sum(shard.tokens for shard in shards)
    size = min(window_tokens, n)
    first_epoch, offset = divmod(token, n)
    for epoch in count(first_epoch):
        line = Line(shards, seed, epoch)
        for start in range(offset - offset % size, n, size):
            yield Window(line, start, min(size, n - start), epoch * n + start, (seed, epoch, start + 1))
        offset = 0
