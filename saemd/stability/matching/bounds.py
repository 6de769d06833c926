"""Loops that compare gains and prices with the cosines of listed pairs, and with bounds of the others."""

import numpy as np
from numba import njit

from saemd.stability.matching.certificate import SLACK
from saemd.stability.matching.cosines import ROUNDING
from saemd.stability.matching.lists import shrink

FEW = 1024  # open pairs of a row up to which they are computed one by one, not the whole row
ADDED_A_ROW = 32  # pairs of a recomputed row that join, those that exceed their gain and price most or miss them least


@njit(nogil=True, cache=True)
def listed_above(value_FW, index_FW, count_F, own_F, other_F, margin, start, stop):
    """Line, index, value of listed pairs of lines [start, stop) above `own` of line + `other` of index - `margin`."""
    size, lowest = 0, other_F.min() - margin
    for write in range(2):
        line_E, index_E = np.empty(size * write, np.int32), np.empty(size * write, np.int32)
        value_E = np.empty(size * write, np.float32)
        size = 0
        for i in range(start, stop):
            for w in range(count_F[i]):
                value = value_FW[i, w]
                if value > own_F[i] + lowest and value > own_F[i] + other_F[index_FW[i, w]] - margin:
                    if write == 1:
                        line_E[size], index_E[size], value_E[size] = i, index_FW[i, w], value
                    size += 1
    return line_E, index_E, value_E


@njit(nogil=True, cache=True)
def _is_open(gain_and_price, row_floor, column_floor, learned):
    """Is the pair open: do the three bounds of its cosine allow more than its gain and price?"""
    bound = gain_and_price + SLACK
    return (bound < row_floor) & (bound < column_floor) & (bound < learned)


@njit(nogil=True, cache=True)
def count_open(gain_F, price_F, row_floor_F, column_floor_F, reference_F, reference_price_F):
    """Number of open pairs of each row, int64 [F]."""
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
def open_pairs(open_F, gain_F, price_F, row_floor_F, column_floor_F, reference_F, reference_price_F):
    """Row and column of the open pairs of all rows that have at most `FEW`."""
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
def nearest(
    block_RF, row_R, row_index_FW, row_count_F, column_index_FW, column_count_F,
    gain_F, price_F, row_floor_F, column_floor_F, reference_F, reference_price_F,
):  # fmt: skip
    """The `ADDED_A_ROW` pairs of each recomputed row that exceed gain and price most, and the largest excess of all.

    Listed pairs have been compared already. Computed here in another order, their last bit may differ. So pairs of the
    row's list are skipped, and a pair of a column's list may be among the nearest but does not count as an excess.
    Writes the rows' `reference_F`.
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
