"""The largest cosines of every row and every column of a matrix that is seen once, a block of rows at a time.

The matrix may hold upper bounds of the cosines, which exact values replace later. An entry (i, j) that is in neither
list is at most min(row floor i, column floor j).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from saemd.stability.matching.cosines import in_parts
from saemd.stability.matching.lists import (
    expect_floor,
    mean_and_deviation,
    offer_columns,
    offer_rows,
    put,
    shrink_lines,
)

FILLED = 1.45  # entries that lists begin with, in multiples of those they keep; at most 2 fit
SAMPLED = 64  # rows that these floors are estimated from
ENOUGH = 256  # entries of a column from which its mean and deviation are known well enough


class Edges(NamedTuple):
    """Pairs of the matrix, in any order."""

    row: np.ndarray  # int32
    column: np.ndarray  # int32
    value: np.ndarray  # float32

    def joined(self, *others: Edges) -> Edges:
        """These and the others'."""
        return Edges(*(np.concatenate(part) for part in zip(self, *others, strict=True)))

    def where(self, chosen_E: np.ndarray) -> Edges:
        """Those for which bool [E] is true."""
        return Edges(*(part[chosen_E] for part in self))


@dataclass(frozen=True)
class Lists:
    """The largest entries of each line (row or column) i: the first `count[i]` of `value[i]` and `index[i]`, unordered.

    All other entries of the line are at most `floor[i]`.
    """

    keep: int
    value: np.ndarray  # float32 [F, W]
    index: np.ndarray  # int32 [F, W]
    count: np.ndarray  # int64 [F]
    floor: np.ndarray  # float32 [F]; -inf as long as the list holds all entries

    @classmethod
    def empty(cls, n_latents: int, keep: int) -> Lists:
        """Empty lists of twice `keep` entries, so that a list is cut to its largest only when it is full."""
        width = min(2 * keep, n_latents)
        value_FW = np.empty((n_latents, width), dtype=np.float32)
        index_FW = np.empty((n_latents, width), dtype=np.int32)
        return cls(
            keep, value_FW, index_FW, np.zeros(n_latents, dtype=np.int64), np.full(n_latents, -np.inf, np.float32)
        )

    def largest(self, keep: int, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Line int32 [E], index int32 [E], value float32 [E] of each line's `keep` largest; reorders the lists."""
        size_F = np.minimum(self.count, keep)
        in_parts(pool, len(size_F), partial(shrink_lines, self.value, self.index, self.count, keep))
        held_FK = np.arange(min(keep, self.value.shape[1])) < size_F[:, None]
        line_E = np.repeat(np.arange(len(size_F), dtype=np.int32), size_F)
        return line_E, self.index[:, :keep][held_FK], self.value[:, :keep][held_FK]


@dataclass(frozen=True)
class Candidates:
    """Lists of every row (indices are columns) and of every column (indices are rows), and cos(a_i, b_i)."""

    rows: Lists
    columns: Lists
    diagonal: np.ndarray  # float32 [F]
    pool: ThreadPoolExecutor

    def largest(self, keep: int) -> Edges:
        """The `keep` largest entries of each row and column, and the diagonal; a pair may come several times."""
        by_row = Edges(*self.rows.largest(keep, self.pool))
        column_E, row_E, value_E = self.columns.largest(keep, self.pool)
        own_F = np.arange(len(self.diagonal), dtype=np.int32)
        return by_row.joined(Edges(row_E, column_E, value_E), Edges(own_F, own_F, self.diagonal))

    def put(self, edges: Edges) -> None:
        """Replace bounds by exact values wherever a list holds one of these pairs."""
        own_E = edges.row == edges.column
        self.diagonal[edges.row[own_E]] = edges.value[own_E]
        for lists, line_E, index_E in ((self.rows, edges.row, edges.column), (self.columns, edges.column, edges.row)):
            arrays = (lists.value, lists.index, lists.count, line_E, index_E, edges.value)
            in_parts(self.pool, len(line_E), partial(put, *arrays))


def gather(blocks: Iterable[np.ndarray], n_latents: int, keep: int, pool: ThreadPoolExecutor) -> Candidates:
    """Candidates of a square float32 matrix given as consecutive blocks of rows [B, F]; `keep` entries a line.

    A block is read before the next one is asked for.
    """
    rows, columns = Lists.empty(n_latents, keep), Lists.empty(n_latents, keep)
    diagonal_F = np.empty(n_latents, dtype=np.float32)
    first, deviations = 0, -np.inf
    for block_BF in blocks:
        last = first + len(block_BF)
        diagonal_F[first:last] = block_BF[np.arange(last - first), np.arange(first, last)]
        if first == 0 and n_latents > 4 * keep:
            deviations = _deviations(block_BF, keep)
            if last >= ENOUGH:
                in_parts(pool, n_latents, partial(expect_floor, block_BF, deviations, columns.floor))
        in_parts(pool, len(block_BF), partial(offer_rows, block_BF, first, *_arrays(rows), deviations))
        in_parts(pool, n_latents, partial(offer_columns, block_BF, first, *_arrays(columns)))
        first = last
    assert first == n_latents
    return Candidates(rows, columns, diagonal_F, pool)


def _deviations(block_BF: np.ndarray, keep: int) -> float:
    """How many mean absolute deviations above a line's mean about 1.45 · `keep` of its entries lie.

    The median of some rows of the first block. With a floor from the start, a list takes in few entries that it would
    drop later. Where the floor is too high, a row is done again, and a column's list stays shorter, which the proof
    allows.
    """
    above = []
    for line_F in block_BF[:: max(1, len(block_BF) // SAMPLED)]:
        mean, deviation = mean_and_deviation(line_F)
        floor = np.partition(line_F, -round(FILLED * keep))[-round(FILLED * keep)]
        above.append((floor - mean) / max(deviation, 1e-12))
    return float(np.median(above))


def _arrays(lists: Lists) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    return lists.value, lists.index, lists.count, lists.floor, lists.keep
