"""The proof that a matching is the best of all: prices under which no pair of the whole matrix is worth more.

For any gains u and prices v with u_i + v_j >= s_ij for all i, j, every perfect matching totals at most Σu + Σv, by
linear-programming duality. So a matching with that total is optimal. Here all F² pairs are compared, though few are
held: listed pairs one by one, the others by the bound min(row floor, column floor) of their lists, and where that
bound does not suffice the row is computed once more. Suffixes: F latents, R some rows, E edges (pairs of the matrix).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit

from saemd.stability.candidates import Candidates, Edges, shrink

SLACK = 1e-12  # a pair may exceed its gain and price by this; it is counted in the bound
ALLOWED = 1e-9  # of a matching's mean cosine below the bound
ROWS_AT_ONCE = 512
ADDED_A_ROW = 32  # violated pairs of a recomputed row that are returned, the worst first

ExactRows = Callable[[np.ndarray], np.ndarray]  # row numbers [R] to their cosines [R, F], float32


@dataclass(frozen=True)
class Assignment:
    """Row i takes column `index[i]` at cosine `value[i]`; `gain` and `price` are u and v of the certificate."""

    index: np.ndarray  # int64 [F]
    value: np.ndarray  # float64 [F]
    gain: np.ndarray  # float64 [F]
    price: np.ndarray  # float64 [F]


class NotProvenError(RuntimeError):
    """A matching that its certificate does not show to be optimal."""


def certify(found: Assignment, candidates: Candidates, exact_rows: ExactRows) -> float:
    """Checks all of it and returns how much the mean cosine may lie below the optimum (at most `ALLOWED`)."""
    violated = violations(found.gain, found.price, candidates, exact_rows)
    if len(violated.row):
        raise NotProvenError(f"{len(violated.row)} pairs are worth more than their gain and price")
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


def violations(gain_F: np.ndarray, price_F: np.ndarray, candidates: Candidates, exact_rows: ExactRows) -> Edges:
    """Pairs with s_ij > u_i + v_j + SLACK: all that are listed; if there are none, of the others the worst per row."""
    rows, columns = candidates.rows, candidates.columns
    by_row = Edges(*_listed(rows.value, rows.index, rows.count, gain_F, price_F))
    column_E, row_E, value_E = _listed(columns.value, columns.index, columns.count, price_F, gain_F)
    own_E = np.flatnonzero(candidates.diagonal > gain_F + price_F + SLACK).astype(np.int32)
    found = by_row.joined(Edges(row_E, column_E, value_E), Edges(own_E, own_E, candidates.diagonal[own_E]))
    if len(found.row):
        return found
    open_F = np.flatnonzero(_beyond_bounds(gain_F, price_F, rows.floor, columns.floor)).astype(np.int32)
    for start in range(0, len(open_F), ROWS_AT_ONCE):
        row_R = open_F[start : start + ROWS_AT_ONCE]
        more = _exceeding(exact_rows(row_R), row_R, gain_F, price_F, rows.floor, columns.floor)
        found = found.joined(Edges(*more))
    return found


def excess(found: Assignment, blocks: Iterable[np.ndarray]) -> float:
    """max_ij s_ij - u_i - v_j over the matrix given as consecutive blocks of rows: the plain check of `violations`."""
    largest, first = -np.inf, 0
    for block_BF in blocks:
        bound_BF = found.gain[first : first + len(block_BF), None] + found.price
        largest = max(largest, float((block_BF - bound_BF).max()))
        first += len(block_BF)
    return largest


@njit(nogil=True, cache=True)
def _listed(value_FW, index_FW, count_F, own_F, other_F):
    """Line, index and value of listed pairs that are worth more than `own` of their line and `other` of their index."""
    size = 0
    for write in range(2):
        if write == 0:
            line_E, index_E, value_E = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32)
        else:
            line_E, index_E, value_E = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.float32)
            size = 0
        for i in range(len(count_F)):
            for w in range(count_F[i]):
                if value_FW[i, w] > own_F[i] + other_F[index_FW[i, w]] + SLACK:
                    if write == 1:
                        line_E[size], index_E[size], value_E[size] = i, index_FW[i, w], value_FW[i, w]
                    size += 1
    return line_E, index_E, value_E


@njit(nogil=True, cache=True)
def _beyond_bounds(gain_F, price_F, row_floor_F, column_floor_F):
    """bool [F]: rows with a pair whose gain and price do not reach what an unlisted pair may be worth."""
    n = len(price_F)
    spare_F = price_F - column_floor_F
    lowest = price_F.min()
    open_F = np.zeros(n, dtype=np.bool_)
    for i in range(n):
        if gain_F[i] + lowest + SLACK < row_floor_F[i]:
            below = 0
            for j in range(n):
                below += (gain_F[i] + price_F[j] + SLACK < row_floor_F[i]) & (gain_F[i] + spare_F[j] + SLACK < 0)
            open_F[i] = below > 0
    return open_F


@njit(nogil=True, cache=True)
def _exceeding(block_RF, row_R, gain_F, price_F, row_floor_F, column_floor_F):
    """Of recomputed rows the unlisted pairs that are worth more than gain and price, at most `ADDED_A_ROW` a row.

    Listed pairs are left alone: computed in another block, their last bit may differ.
    """
    n = len(price_F)
    line_E = np.empty(len(row_R) * ADDED_A_ROW, np.int32)
    index_E = np.empty(len(row_R) * ADDED_A_ROW, np.int32)
    value_E = np.empty(len(row_R) * ADDED_A_ROW, np.float32)
    excess_F, column_F = np.empty(n, np.float64), np.empty(n, np.int32)
    size = 0
    for r in range(len(row_R)):
        i = row_R[r]
        count = 0
        for j in range(n):
            bound = gain_F[i] + price_F[j] + SLACK
            if block_RF[r, j] > bound and bound < min(row_floor_F[i], column_floor_F[j]):
                excess_F[count], column_F[count] = block_RF[r, j] - bound, j
                count += 1
        if count > ADDED_A_ROW:
            shrink(excess_F, column_F, count, ADDED_A_ROW)
            count = ADDED_A_ROW
        for c in range(count):
            line_E[size], index_E[size], value_E[size] = i, column_F[c], block_RF[r, column_F[c]]
            size += 1
    return line_E[:size].copy(), index_E[:size].copy(), value_E[:size].copy()
