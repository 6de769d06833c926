"""Loops that keep the largest entries of every row and column of a matrix, a block of rows at a time."""

import numpy as np
from numba import njit

CHUNK = 64  # entries compared at once with their floor; nearly all lie below
TILE = 16  # columns copied at once


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
def shrink_lines(value_FW, index_FW, count_F, keep, start, stop):
    for i in range(start, stop):
        if count_F[i] > keep:
            shrink(value_FW[i], index_FW[i], count_F[i], keep)


@njit(nogil=True, cache=True)
def put(value_FW, index_FW, count_F, line_E, index_E, value_E, start, stop):
    for e in range(start, stop):
        i, wanted = line_E[e], index_E[e]
        for w in range(count_F[i]):
            if index_FW[i, w] == wanted:
                value_FW[i, w] = value_E[e]
                break


@njit(nogil=True, cache=True)
def _offer(line_N, first, begin, value_W, index_W, count, floor, keep):
    """Add a stretch of a line, whose indices start at `first`, to its list; chunk `begin` comes first."""
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
def offer_rows(block_BF, first, value_FW, index_FW, count_F, floor_F, keep, start, stop):
    """Add rows [start, stop) of a block to the lists of rows; each begins at another chunk, so that ties spread out."""
    guess = np.float32(-np.inf)
    for b in range(start, stop):
        i = first + b
        count, floor = _offer(block_BF[b], 0, i * 7919, value_FW[i], index_FW[i], 0, guess, keep)
        if count < keep:  # the guess from the row before was too high: start again without one
            count, floor = _offer(block_BF[b], 0, i * 7919, value_FW[i], index_FW[i], 0, np.float32(-np.inf), keep)
        count_F[i], floor_F[i] = count, floor
        guess = value_FW[i, :count].min() if count < 2 * keep else floor


@njit(nogil=True, cache=True)
def offer_columns(block_BF, first, value_FW, index_FW, count_F, floor_F, keep, start, stop):
    """Add columns [start, stop) of a block to the lists of columns, row by row as they lie in memory."""
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
def expect_floor(block_BF, rank, floor_F, start, stop):
    """Set the floor of columns [start, stop) to the `rank`-th largest entry of each in this block."""
    rows = len(block_BF)
    tile_CB, place_B = np.empty((TILE, rows), dtype=np.float32), np.empty(rows, dtype=np.int32)
    for low in range(start, stop, TILE):
        high = min(low + TILE, stop)
        for b in range(rows):
            for j in range(low, high):
                tile_CB[j - low, b] = block_BF[b, j]
        for j in range(low, high):
            floor_F[j] = shrink(tile_CB[j - low], place_B, rows, rank)
