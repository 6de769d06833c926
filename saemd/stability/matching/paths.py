"""Shortest augmenting paths: they match the rows that the auction has left free."""

import numpy as np
from numba import njit

from saemd.stability.matching.auction import FREE, best_column


@njit(nogil=True, cache=True)
def _push(key_E, node_E, size, key, node):
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if key_E[parent] <= key:
            break
        key_E[place], node_E[place] = key_E[parent], node_E[parent]
        place = parent
    key_E[place], node_E[place] = key, node


@njit(nogil=True, cache=True)
def _pop(key_E, node_E, size):
    """Removes the smallest of a heap of `size` (its caller has read it)."""
    key, node = key_E[size - 1], node_E[size - 1]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size - 1:
            break
        if child + 1 < size - 1 and key_E[child + 1] < key_E[child]:
            child += 1
        if key_E[child] >= key:
            break
        key_E[place], node_E[place] = key_E[child], node_E[child]
        place = child
    key_E[place], node_E[place] = key, node


@njit(nogil=True, cache=True)
def augment(start_F, column_E, value_E, price_F, column_of_F, row_of_F):
    """Gives every free row a column along shortest augmenting paths; all pairs are, and stay, their row's best.

    The length of an edge is what its row loses by it against its best. Returns False if some row cannot be matched.
    """
    n = len(price_F)
    distance_F = np.full(n, np.inf)
    from_F = np.empty(n, dtype=np.int64)
    done_F = np.zeros(n, dtype=np.bool_)
    touched_F = np.empty(n, dtype=np.int64)
    key_E = np.empty(len(column_E) + 1, dtype=np.float64)
    node_E = np.empty(len(column_E) + 1, dtype=np.int32)
    for free in range(n):
        if column_of_F[free] != FREE:
            continue
        size, n_touched, length, end = 0, 0, np.inf, -1
        i, here = free, 0.0
        gain = best_column(free, start_F, column_E, value_E, price_F)[1]
        while True:
            base = here + gain
            for e in range(start_F[i], start_F[i + 1]):
                j = column_E[e]
                reach = max(base - (value_E[e] - price_F[j]), here)
                if reach < distance_F[j] and reach < length and not done_F[j]:
                    if distance_F[j] == np.inf:
                        touched_F[n_touched] = j
                        n_touched += 1
                    distance_F[j] = reach
                    from_F[j] = i
                    if row_of_F[j] == FREE:
                        length, end = reach, j
                    else:
                        _push(key_E, node_E, size, reach, j)
                        size += 1
            while size > 0 and (done_F[node_E[0]] or key_E[0] > distance_F[node_E[0]]):
                _pop(key_E, node_E, size)
                size -= 1
            if size == 0 or key_E[0] >= length:
                break
            j, here = node_E[0], key_E[0]
            _pop(key_E, node_E, size)
            size -= 1
            done_F[j] = True
            i = row_of_F[j]
            for e in range(start_F[i], start_F[i + 1]):
                if column_E[e] == j:
                    gain = value_E[e] - price_F[j]
                    break
        if end == -1:
            return False
        for t in range(n_touched):
            j = touched_F[t]
            if done_F[j]:
                price_F[j] += length - distance_F[j]
            distance_F[j] = np.inf
            done_F[j] = False
        while True:
            i = from_F[end]
            row_of_F[end] = i
            column_of_F[i], end = end, column_of_F[i]
            if i == free:
                break
    return True
