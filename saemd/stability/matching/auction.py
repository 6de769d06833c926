"""An auction for the prices of a matching, after Bertsekas: rows bid for columns.

Column j has a price v_j; row i gains u_i = max_j (s_ij - v_j) at these prices. A matching whose every pair attains its
row's maximum is optimal, because Σu + Σv bounds the total of any perfect matching.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from saemd.stability.matching.graph import best_column

FREE = -1


@njit(nogil=True, cache=True)
def bid(start_F, column_E, value_E, price_F, column_of_F, row_of_F, epsilon, limit):
    """Auction until every row has a column or `limit` bids are made; returns the number of bids.

    A row takes its best column and raises the price to where the second best gains as much, and `epsilon` more. With
    epsilon = 0 all pairs stay exactly at their row's maximum (the row reduction of Jonker and Volgenant).
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
        price_F[best] += epsilon + (gain - second if second > -np.inf else 0.0)
        evicted = row_of_F[best]
        row_of_F[best] = i
        column_of_F[i] = best
        if evicted != FREE:
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
