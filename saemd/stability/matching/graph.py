"""The candidates as a sparse bipartite graph in compressed rows: row i has the edges start[i] to start[i + 1]."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def compress(n_latents, row_E, column_E, value_E):
    """Edges in any order as start int64 [F + 1], column int32 [E], value float64 [E]; of repeated ones the largest."""
    start_F = np.zeros(n_latents + 1, dtype=np.int64)
    for e in range(len(row_E)):
        start_F[row_E[e] + 1] += 1
    start_F = np.cumsum(start_F)
    place_F = start_F[:-1].copy()
    order_E = np.empty(len(row_E), dtype=np.int64)
    for e in range(len(row_E)):
        order_E[place_F[row_E[e]]] = e
        place_F[row_E[e]] += 1
    seen_F = np.full(n_latents, -1, dtype=np.int64)
    column_out_E = np.empty(len(row_E), dtype=np.int32)
    value_out_E = np.empty(len(row_E), dtype=np.float64)
    size = 0
    for i in range(n_latents):
        first, last = start_F[i], start_F[i + 1]
        start_F[i] = size
        for place in range(first, last):
            e = order_E[place]
            earlier = seen_F[column_E[e]]
            if earlier >= start_F[i]:  # seen in this row
                value_out_E[earlier] = max(value_out_E[earlier], value_E[e])
            else:
                seen_F[column_E[e]] = size
                column_out_E[size] = column_E[e]
                value_out_E[size] = value_E[e]
                size += 1
    start_F[n_latents] = size
    return start_F, column_out_E[:size].copy(), value_out_E[:size].copy()


@njit(nogil=True, cache=True)
def best_column(i, start_F, column_E, value_E, price_F):
    """Row i's best column, its gain there, and its gain at the second best."""
    best, gain, second = -1, -np.inf, -np.inf
    for e in range(start_F[i], start_F[i + 1]):
        offer = value_E[e] - price_F[column_E[e]]
        if offer > gain:
            best, gain, second = column_E[e], offer, gain
        elif offer > second:
            second = offer
    return best, gain, second
