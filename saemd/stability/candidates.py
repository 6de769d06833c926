"""The largest cosines of every row and every column of a matrix that is seen once, a block of rows at a time.

Or upper bounds of them, which exact values replace later. What is left out is bounded: an entry (i, j) that neither
list holds is at most min(row floor i, column floor j). Suffixes: F latents, B rows of one block,
W width of a list with its buffer, E edges.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numba import njit

from saemd.stability.cosines import in_parts

CHUNK = 64  # entries compared at once with their floor; nearly all lie below
TILE = 16  # columns copied at once


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
    """Line i's largest entries: the first `count[i]` of `value[i]`, `index[i]`, in no order; others <= `floor[i]`."""

    keep: int
    value: np.ndarray  # float32 [F, W]
    index: np.ndarray  # int32 [F, W]
    count: np.ndarray  # int64 [F]
    floor: np.ndarray  # float32 [F]; -inf while everything seen is held

    @classmethod
    def empty(cls, n_latents: int, keep: int) -> Lists:
        """Room for `keep` entries a line and as many again, so that they are sorted out only when it is full."""
        width = min(2 * keep, n_latents)
        value_FW = np.empty((n_latents, width), dtype=np.float32)
        index_FW = np.empty((n_latents, width), dtype=np.int32)
        return cls(
            keep, value_FW, index_FW, np.zeros(n_latents, dtype=np.int64), np.full(n_latents, -np.inf, np.float32)
        )

    def largest(self, keep: int, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Line int32 [E], index int32 [E], value float32 [E] of each line's `keep` largest; reorders the lists."""
        size_F = np.minimum(self.count, keep)
        in_parts(pool, len(size_F), partial(_shrink_lines, self.value, self.index, self.count, keep))
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
        """Each line's `keep` largest, and the diagonal; the same pair may come several times."""
        by_row = Edges(*self.rows.largest(keep, self.pool))
        column_E, row_E, value_E = self.columns.largest(keep, self.pool)
        own_F = np.arange(len(self.diagonal), dtype=np.int32)
        return by_row.joined(Edges(row_E, column_E, value_E), Edges(own_F, own_F, self.diagonal))

    def put(self, edges: Edges) -> None:
        """Exact values in place of bounds, wherever these pairs are held."""
        own_E = edges.row == edges.column
        self.diagonal[edges.row[own_E]] = edges.value[own_E]
        for lists, line_E, index_E in (
            (self.rows, edges.row, edges.column),
            (self.columns, edges.column, edges.row),
        ):
            given = (lists.value, lists.index, lists.count, line_E, index_E, edges.value)
            in_parts(self.pool, len(line_E), partial(_put, *given))


def gather(blocks: Iterable[np.ndarray], n_latents: int, keep: int, pool: ThreadPoolExecutor) -> Candidates:
    """Candidates of a square float32 matrix given as consecutive blocks of rows [B, F]; `keep` entries a line.

    A block is read before the next one is asked for.
    """
    rows, columns = Lists.empty(n_latents, keep), Lists.empty(n_latents, keep)
    diagonal_F = np.empty(n_latents, dtype=np.float32)
    first = 0
    for block_BF in blocks:
        last = first + len(block_BF)
        diagonal_F[first:last] = block_BF[np.arange(last - first), np.arange(first, last)]
        if first == 0 and (rank := _rank(len(block_BF), n_latents, keep)):
            in_parts(pool, n_latents, partial(_expect, block_BF, rank, columns.floor))
        in_parts(pool, len(block_BF), partial(_offer_rows, block_BF, first, *_arrays(rows)))
        in_parts(pool, n_latents, partial(_offer_columns, block_BF, first, *_arrays(columns)))
        first = last
    assert first == n_latents
    return Candidates(rows, columns, diagonal_F, pool)


def _rank(rows: int, n_latents: int, keep: int) -> int:
    """Which of a first block's entries of a column only 1.5 · `keep` of all should exceed; 0: not to be told.

    A floor to begin with spares most of what a list takes in only to drop it. One that is too high leaves the list
    shorter, which a proof can do with.
    """
    rank = round(1.5 * keep * rows / n_latents)
    return rank if 4 <= rank < rows // 4 else 0


def _arrays(lists: Lists) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    return lists.value, lists.index, lists.count, lists.floor, lists.keep


@njit(nogil=True, cache=True)
def shrink(value_W, index_W, count, keep):
    """Quickselect: moves the `keep` largest of the first `count` to the front, returns the smallest of them."""
    low, high, target = 0, count - 1, keep - 1
    while low < high:
        pivot = value_W[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while value_W[i] > pivot:
                i += 1
            while value_W[j] < pivot:
                j -= 1
            if i <= j:
                value_W[i], value_W[j] = value_W[j], value_W[i]
                index_W[i], index_W[j] = index_W[j], index_W[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            break
    return value_W[target]


@njit(nogil=True, cache=True)
def _shrink_lines(value_FW, index_FW, count_F, keep, start, stop):
    for i in range(start, stop):
        if count_F[i] > keep:
            shrink(value_FW[i], index_FW[i], count_F[i], keep)


@njit(nogil=True, cache=True)
def _put(value_FW, index_FW, count_F, line_E, index_E, value_E, start, stop):
    for e in range(start, stop):
        i, wanted = line_E[e], index_E[e]
        for w in range(count_F[i]):
            if index_FW[i, w] == wanted:
                value_FW[i, w] = value_E[e]
                break


@njit(nogil=True, cache=True)
def _offer(line_N, first, begin, value_W, index_W, count, floor, keep):
    """A stretch of a line, whose indices start at `first`, into its list; from chunk `begin` on, then the others."""
    n, width = len(line_N), len(value_W)
    chunks = (n + CHUNK - 1) // CHUNK
    for chunk in range(chunks):
        low = (begin + chunk) % chunks * CHUNK
        part_C = line_N[low : min(low + CHUNK, n)]
        above = 0
        for k in range(len(part_C)):  # in this form it is vectorised
            if part_C[k] > floor:
                above += 1
        if above == 0:
            continue
        for k in range(len(part_C)):
            if part_C[k] > floor:
                if count == width:
                    floor = shrink(value_W, index_W, count, keep)
                    count = keep
                    if part_C[k] <= floor:
                        continue
                value_W[count] = part_C[k]
                index_W[count] = first + low + k
                count += 1
    return count, floor


@njit(nogil=True, cache=True)
def _offer_rows(block_BF, first, value_FW, index_FW, count_F, floor_F, keep, start, stop):
    """Rows [start, stop) of a block into the lists of rows; each row starts elsewhere, so that ties spread out."""
    guess = np.float32(-np.inf)
    for b in range(start, stop):
        i = first + b
        count, floor = _offer(block_BF[b], 0, i * 7919, value_FW[i], index_FW[i], 0, guess, keep)
        if count < keep:  # the row before lies higher: take all again
            count, floor = _offer(block_BF[b], 0, i * 7919, value_FW[i], index_FW[i], 0, np.float32(-np.inf), keep)
        count_F[i], floor_F[i] = count, floor
        guess = value_FW[i, :count].min() if count < 2 * keep else floor


@njit(nogil=True, cache=True)
def _offer_columns(block_BF, first, value_FW, index_FW, count_F, floor_F, keep, start, stop):
    """Columns [start, stop) of a block into the lists of columns, row by row as they lie in memory."""
    width = value_FW.shape[1]
    for b in range(len(block_BF)):
        for low in range(start, stop, CHUNK):
            high = min(low + CHUNK, stop)
            above = 0
            for j in range(low, high):  # in this form it is vectorised
                if block_BF[b, j] > floor_F[j]:
                    above += 1
            if above == 0:
                continue
            for j in range(low, high):
                if block_BF[b, j] > floor_F[j]:
                    if count_F[j] == width:
                        floor_F[j] = shrink(value_FW[j], index_FW[j], width, keep)
                        count_F[j] = keep
                        if block_BF[b, j] <= floor_F[j]:
                            continue
                    value_FW[j, count_F[j]] = block_BF[b, j]
                    index_FW[j, count_F[j]] = first + b
                    count_F[j] += 1


@njit(nogil=True, cache=True)
def _expect(block_BF, rank, floor_F, start, stop):
    """The `rank`-th largest entry of columns [start, stop) of a block as their floor."""
    rows = len(block_BF)
    tile_CB, place_B = np.empty((TILE, rows), dtype=np.float32), np.empty(rows, dtype=np.int32)
    for low in range(start, stop, TILE):
        high = min(low + TILE, stop)
        for b in range(rows):
            for j in range(low, high):
                tile_CB[j - low, b] = block_BF[b, j]
        for j in range(low, high):
            floor_F[j] = shrink(tile_CB[j - low], place_B, rows, rank)
