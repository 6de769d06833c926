"""The proof that a matching is the best of all: prices under which no pair of the whole matrix is worth more.

For any gains u and prices v with u_i + v_j >= s_ij for all i, j, every perfect matching totals at most Σu + Σv, by
linear-programming duality. So a matching with that total is optimal. Here all F² pairs are compared, though few are
held: listed pairs one by one (exactly, where their bounds do not suffice), the others by the bound min(row floor,
column floor) of their lists, and where that does not suffice the pair, or its row, is computed. Suffixes: F latents,
R some rows, E edges (pairs of the matrix).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numba import njit

from saemd.stability.candidates import Candidates, Edges, Lists, shrink
from saemd.stability.cosines import ROUNDING, Cosines, in_parts

SLACK = 1e-12  # a pair may exceed its gain and price by this; it is counted in the bound
ALLOWED = 1e-9  # of a matching's mean cosine below the bound
ROWS_AT_ONCE = 512
FEW = 1024  # pairs of a row that are computed one by one where their bounds do not suffice, not the whole row
NEAR = 0.003  # cosine by which a listed pair may miss its gain and price and join with those that exceed them
ADDED_A_ROW = 32  # pairs of a recomputed row that join, those that exceed their gain and price most or miss them least


@dataclass(frozen=True)
class Assignment:
    """Row i takes column `index[i]` at cosine `value[i]`; `gain` and `price` are u and v of the certificate."""

    index: np.ndarray  # int64 [F]
    value: np.ndarray  # float64 [F]
    gain: np.ndarray  # float64 [F]
    price: np.ndarray  # float64 [F]


class NotProvenError(RuntimeError):
    """A matching that its certificate does not show to be optimal."""


def certify(found: Assignment, candidates: Candidates, cosines: Cosines) -> float:
    """Checks all of it anew, and returns how much the mean cosine may lie below the optimum (at most `ALLOWED`)."""
    violated = Pricing(candidates, cosines).violations(found.gain, found.price)
    if len(violated.row):
        raise NotProvenError("some pairs are worth more than their gain and price")
    return gap(found)


def gap(found: Assignment) -> float:
    """(Σu + Σv - total) / F for dual feasible u, v up to `SLACK`; raises `NotProvenError` beyond `ALLOWED`."""
    n_latents = len(found.index)
    if not np.array_equal(np.sort(found.index), np.arange(n_latents)):
        raise NotProvenError("not one to one")
    missing = SLACK + float((found.gain.sum() + found.price.sum() - found.value.sum()) / max(n_latents, 1))
    if not abs(missing) <= ALLOWED:
        raise NotProvenError(f"the mean cosine lies {missing:.1e} below its bound, {ALLOWED:.0e} is allowed")
    return missing


class Pricing:
    """Compares all pairs of a matrix with gains and prices, and remembers what it learned of recomputed rows.

    Of such a row all but `ADDED_A_ROW` unlisted pairs are covered by s_ij <= reference_i + v_j at the prices v of the
    first time, so that later prices, which differ little, seldom make it compute a row again.
    """

    def __init__(self, candidates: Candidates, cosines: Cosines):
        self._candidates, self._cosines = candidates, cosines
        self._reference_F = np.full(len(candidates.diagonal), np.inf)
        self._reference_price_F: np.ndarray | None = None

    def violations(self, gain_F: np.ndarray, price_F: np.ndarray) -> Edges:
        """No pairs if s_ij <= u_i + v_j + SLACK for all i, j; else those that should join the graph.

        They are all listed pairs that exceed it. If only others do, they are all that were computed one by one, and
        the worst and nearest of each row that was: after the next change of prices these would be the ones.
        """
        rows, columns, diagonal_F = self._candidates.rows, self._candidates.columns, self._candidates.diagonal
        by_row = Edges(*self._exceeding(rows, gain_F, price_F))
        column_E, row_E, value_E = self._exceeding(columns, price_F, gain_F)
        own_E = np.flatnonzero(diagonal_F > gain_F + price_F + SLACK).astype(np.int32)
        found = by_row.joined(Edges(row_E, column_E, value_E), Edges(own_E, own_E, diagonal_F[own_E]))
        if not self._cosines.exact:
            found = self._exactly(found, gain_F, price_F)
        if len(found.row):
            return found
        if self._reference_price_F is None:
            self._reference_price_F = price_F.copy()
        bounds = (rows.floor, columns.floor, self._reference_F, self._reference_price_F)
        open_F = _beyond_bounds(gain_F, price_F, *bounds)
        row_E, column_E = _few(open_F, gain_F, price_F, *bounds)
        single = Edges(row_E, column_E, self._cosines.pairs(row_E, column_E))
        worst = float((single.value - gain_F[row_E] - price_F[column_E]).max(initial=-np.inf)) - SLACK
        parts = [single]
        many_F = np.flatnonzero(open_F > FEW).astype(np.int32)
        held = (rows.index, rows.count, columns.index, columns.count)
        for start in range(0, len(many_F), ROWS_AT_ONCE):
            row_R = many_F[start : start + ROWS_AT_ONCE]
            *part, exceeding = _nearest(self._cosines.rows(row_R), row_R, *held, gain_F, price_F, *bounds)
            parts.append(Edges(*part))
            worst = max(worst, exceeding)
        return found if worst <= 0 else found.joined(*parts)

    def _exceeding(self, lists: Lists, own_F: np.ndarray, other_F: np.ndarray) -> list[np.ndarray]:
        work = partial(_listed, lists.value, lists.index, lists.count, own_F, other_F)
        return [np.concatenate(parts) for parts in zip(*in_parts(self._candidates.pool, len(own_F), work), strict=True)]

    def _exactly(self, found: Edges, gain_F: np.ndarray, price_F: np.ndarray) -> Edges:
        """Pairs whose bound exceeds gain and price, if some do so themselves; the lists hold all exactly then.

        Those nearly as good come along: after the next change of prices these would be the ones.
        """
        exact = known(found, self._candidates, self._cosines)
        excess_E = exact.value - gain_F[exact.row] - price_F[exact.column]
        return exact.where(excess_E > (-NEAR if excess_E.max(initial=-1) > SLACK else np.inf))


def known(edges: Edges, candidates: Candidates, cosines: Cosines) -> Edges:
    """These pairs with their exact cosines, which the candidates hold from then on."""
    exact = edges._replace(value=cosines.pairs(edges.row, edges.column))
    candidates.put(exact)
    return exact


def excess(found: Assignment, blocks: Iterable[np.ndarray]) -> float:
    """max_ij s_ij - u_i - v_j over the matrix given as consecutive blocks of rows: the plain check of `violations`."""
    largest, first = -np.inf, 0
    for block_BF in blocks:
        bound_BF = found.gain[first : first + len(block_BF), None] + found.price
        largest = max(largest, float((block_BF - bound_BF).max()))
        first += len(block_BF)
    return largest


@njit(nogil=True, cache=True)
def _listed(value_FW, index_FW, count_F, own_F, other_F, start, stop):
    """Line, index and value of listed pairs that are worth more than `own` of their line and `other` of their index.

    Of lines [start, stop).
    """
    size, lowest = 0, other_F.min() + SLACK
    for write in range(2):
        line_E, index_E = np.empty(size * write, np.int32), np.empty(size * write, np.int32)
        value_E = np.empty(size * write, np.float32)
        size = 0
        for i in range(start, stop):
            for w in range(count_F[i]):
                value = value_FW[i, w]
                if value > own_F[i] + lowest and value > own_F[i] + other_F[index_FW[i, w]] + SLACK:
                    if write == 1:
                        line_E[size], index_E[size], value_E[size] = i, index_FW[i, w], value
                    size += 1
    return line_E, index_E, value_E


@njit(nogil=True, cache=True)
def _is_open(gain_and_price, row_floor, column_floor, learned):
    """Whether a pair of which only these three bounds are known may be worth more than its gain and price."""
    bound = gain_and_price + SLACK
    return (bound < row_floor) & (bound < column_floor) & (bound < learned)


@njit(nogil=True, cache=True)
def _beyond_bounds(gain_F, price_F, row_floor_F, column_floor_F, reference_F, reference_price_F):
    """int64 [F]: of each row the pairs whose gain and price do not reach what an unlisted pair may be worth."""
    n = len(price_F)
    lowest = price_F.min()
    open_F = np.zeros(n, dtype=np.int64)
    for i in range(n):
        if gain_F[i] + lowest + SLACK < row_floor_F[i]:
            below = 0
            for j in range(n):
                learned = reference_F[i] + reference_price_F[j]
                below += _is_open(gain_F[i] + price_F[j], row_floor_F[i], column_floor_F[j], learned)
            open_F[i] = below
    return open_F


@njit(nogil=True, cache=True)
def _few(open_F, gain_F, price_F, row_floor_F, column_floor_F, reference_F, reference_price_F):
    """The pairs that `_beyond_bounds` counted, row and column, of rows with at most `FEW`."""
    size = 0
    for i in range(len(open_F)):
        size += open_F[i] if open_F[i] <= FEW else 0
    row_E, column_E = np.empty(size, np.int32), np.empty(size, np.int32)
    size = 0
    for i in range(len(open_F)):
        if 0 < open_F[i] <= FEW:
            for j in range(len(price_F)):
                learned = reference_F[i] + reference_price_F[j]
                if _is_open(gain_F[i] + price_F[j], row_floor_F[i], column_floor_F[j], learned):
                    row_E[size], column_E[size] = i, j
                    size += 1
    return row_E, column_E


@njit(nogil=True, cache=True)
def _nearest(
    block_RF, row_R, row_index_FW, row_count_F, column_index_FW, column_count_F,
    gain_F, price_F, row_floor_F, column_floor_F, reference_F, reference_price_F,
):  # fmt: skip
    """Of each recomputed row the `ADDED_A_ROW` pairs that gain and price cover worst; by how much the worst exceeds.

    Pairs that are listed have been compared already, and their last bit may differ here, having been computed in
    another way: those of the row's list are passed over, one of its column's may be among the nearest but is not taken
    to exceed. Writes the rows' `reference_F`.
    """
    n = len(price_F)
    line_E = np.empty(len(row_R) * ADDED_A_ROW, np.int32)
    index_E = np.empty(len(row_R) * ADDED_A_ROW, np.int32)
    value_E = np.empty(len(row_R) * ADDED_A_ROW, np.float32)
    excess_F, column_F = np.empty(n, np.float64), np.empty(n, np.int32)
    listed_F = np.full(n, -1, np.int64)
    size, worst = 0, -np.inf
    for r in range(len(row_R)):
        i = row_R[r]
        for w in range(row_count_F[i]):
            listed_F[row_index_FW[i, w]] = r
        count = 0
        for j in range(n):
            floor = min(row_floor_F[i], column_floor_F[j])
            if listed_F[j] != r and block_RF[r, j] <= floor + ROUNDING:
                bound = gain_F[i] + price_F[j] + SLACK
                excess_F[count], column_F[count] = block_RF[r, j] - bound, j
                exceeds = bound < floor and excess_F[count] > worst
                if exceeds and not (column_index_FW[j, : column_count_F[j]] == i).any():
                    worst = excess_F[count]
                count += 1
        joining = min(count, ADDED_A_ROW)
        if count > joining:
            shrink(excess_F, column_F, count, joining)
        for c in range(joining):
            line_E[size], index_E[size], value_E[size] = i, column_F[c], block_RF[r, column_F[c]]
            size += 1
        reference = -np.inf
        for c in range(joining, count):
            reference = max(reference, block_RF[r, column_F[c]] - reference_price_F[column_F[c]])
        reference_F[i] = reference
    return line_E[:size].copy(), index_E[:size].copy(), value_E[:size].copy(), worst
