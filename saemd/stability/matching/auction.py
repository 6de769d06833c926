"""An auction for the prices of a matching, after Bertsekas: rows bid for columns.

Column j has a price v_j; row i gains u_i = max_j (s_ij - v_j) at these prices. A matching whose every pair attains its
row's maximum is optimal, because Σu + Σv bounds the total of any perfect matching. The candidates are a sparse
bipartite graph in compressed rows: row i has the edges start[i] to start[i + 1].
"""

import numpy as np
from numba import njit

FREE = -1


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


@njit(nogil=True, cache=True)
def bid(start_F, column_E, value_E, price_F, column_of_F, row_of_F, epsilon, limit):
    """Auction until every row has a column or `limit` bids are made; returns the number of bids.

    A row takes its best column. If another row had it, the price rises to where the second best gains as much, and
    `epsilon` more. A free column keeps its price: raised for no rival, prices of near-identical dictionaries end so far
    apart that pairs outside the graph break the proof. With epsilon = 0 all pairs stay exactly at their row's maximum.
    """
    n = len(price_F)
    queue_F = np.empty(n, dtype=np.int64)
    waiting = 0
    for i in range(n):
        if column_of_F[i] == FREE:
            queue_F[waiting] = i
            waiting += 1
    head, bids = 0, 0
    while waiting > 0 and bids < limit:
        i = queue_F[head]
        head = (head + 1) % n
        waiting -= 1
        bids += 1
        best, gain, second = best_column(i, start_F, column_E, value_E, price_F)
        evicted = row_of_F[best]
        row_of_F[best] = i
        column_of_F[i] = best
        if evicted != FREE:
            price_F[best] += epsilon + (gain - second if second > -np.inf else 0.0)
            column_of_F[evicted] = FREE
            queue_F[(head + waiting) % n] = evicted
            waiting += 1
    return bids


@njit(nogil=True, cache=True)
def gains(start_F, column_E, value_E, price_F, column_of_F):
    """Each row's best gain, and the value of the edge it is matched by (NaN: none)."""
    gain_F = np.empty(len(price_F))
    own_F = np.full(len(price_F), np.nan)
    for i in range(len(price_F)):
        gain_F[i] = best_column(i, start_F, column_E, value_E, price_F)[1]
        for e in range(start_F[i], start_F[i + 1]):
            if column_E[e] == column_of_F[i]:
                own_F[i] = value_E[e]
    return gain_F, own_F


@njit(nogil=True, cache=True)
def free_losing(start_F, column_E, value_E, price_F, column_of_F, row_of_F, slack):
    """Frees every row whose column gains it more than `slack` less than its best."""
    for i in range(len(price_F)):
        if column_of_F[i] != FREE:
            gain, own = -np.inf, -np.inf
            for e in range(start_F[i], start_F[i + 1]):
                offer = value_E[e] - price_F[column_E[e]]
                gain = max(gain, offer)
                if column_E[e] == column_of_F[i]:
                    own = offer
            if own < gain - slack:
                row_of_F[column_of_F[i]] = FREE
                column_of_F[i] = FREE
