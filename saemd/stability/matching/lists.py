"""Loops that keep the largest entries of every row and column of a matrix, a block of rows at a time."""

import numpy as np
from numba import njit

CHUNK = 256  # entries compared at once with their floors


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
def _buffers():
    """What `_above` writes: places of a chunk, marks of a chunk, and the same marks as words of eight."""
    word_C = np.zeros(CHUNK // 8, dtype=np.uint64)
    return np.empty(CHUNK, dtype=np.int64), word_C.view(np.uint8), word_C


@njit(nogil=True, cache=True)
def _above(part_C, floor_C, place_C, mark_C, word_C):
    """Writes the places of a chunk's entries that exceed their floors, and returns their number.

    Nearly all entries lie below. So all are compared at once, and eight marks are looked at together.
    """
    size = len(part_C)
    for c in range(size):  # in this form it is vectorised
        mark_C[c] = part_C[c] > floor_C[c]
    words = (size + 7) // 8
    mark_C[size : 8 * words] = 0
    count = 0
    for w in range(words):
        if word_C[w] != 0:
            for c in range(8 * w, 8 * w + 8):
                place_C[count] = c
                count += mark_C[c]
    return count


@njit(nogil=True, cache=True)
def _offer(line_N, begin, value_W, index_W, floor, keep, floor_C, buffers):
    """Fill the list of a whole line with its entries above a floor that rises; chunk `begin` comes first."""
    n, width, count = len(line_N), len(value_W), 0
    place_C, mark_C, word_C = buffers
    floor_C[:] = floor
    chunks = (n + CHUNK - 1) // CHUNK
    for chunk in range(chunks):
        low = (begin + chunk) % chunks * CHUNK
        part_C = line_N[low : min(low + CHUNK, n)]
        for p in range(_above(part_C, floor_C, place_C, mark_C, word_C)):
            value = part_C[place_C[p]]
            if value > floor:
                if count == width:
                    floor = shrink(value_W, index_W, count, keep)
                    floor_C[:] = floor
                    count = keep
                    if value <= floor:
                        continue
                value_W[count] = value
                index_W[count] = low + place_C[p]
                count += 1
    return count, floor


@njit(nogil=True, cache=True)
def offer_rows(block_BF, first, value_FW, index_FW, count_F, floor_F, keep, deviations, start, stop):
    """Lists of rows [start, stop) of a block, from the floor at `deviations` on.

    Each row begins at another chunk, so that ties spread out.
    """
    floor_C, buffers = np.empty(CHUNK, dtype=np.float32), _buffers()
    for b in range(start, stop):
        i, floor = first + b, np.float32(-np.inf)
        if deviations > -np.inf:
            mean, deviation = mean_and_deviation(block_BF[b])
            floor = np.float32(mean + deviations * deviation)
        count, floor_F[i] = _offer(block_BF[b], i * 7919, value_FW[i], index_FW[i], floor, keep, floor_C, buffers)
        if count < keep and floor > -np.inf:  # that floor was too high
            floor = np.float32(-np.inf)
            count, floor_F[i] = _offer(block_BF[b], i * 7919, value_FW[i], index_FW[i], floor, keep, floor_C, buffers)
        count_F[i] = count


@njit(nogil=True, cache=True)
def offer_columns(block_BF, first, value_FW, index_FW, count_F, floor_F, keep, start, stop):
    """Add columns [start, stop) of a block to the lists of columns, row by row as they lie in memory."""
    width = value_FW.shape[1]
    place_C, mark_C, word_C = _buffers()
    for b in range(len(block_BF)):
        for low in range(start, stop, CHUNK):
            high = min(low + CHUNK, stop)
            part_C = block_BF[b, low:high]
            for p in range(_above(part_C, floor_F[low:high], place_C, mark_C, word_C)):
                value, j = part_C[place_C[p]], low + place_C[p]
                if count_F[j] == width:
                    floor_F[j] = shrink(value_FW[j], index_FW[j], width, keep)
                    count_F[j] = keep
                    if value <= floor_F[j]:
                        continue
                value_FW[j, count_F[j]] = value
                index_FW[j, count_F[j]] = first + b
                count_F[j] += 1


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def mean_and_deviation(line_N):
    """Mean of a line, and mean absolute deviation from it: a few very large entries hardly change the latter."""
    total = np.float32(0)
    for k in range(len(line_N)):
        total += line_N[k]
    mean, deviation = total / np.float32(len(line_N)), np.float32(0)
    for k in range(len(line_N)):
        deviation += abs(line_N[k] - mean)
    return mean, deviation / np.float32(len(line_N))


@njit(nogil=True, cache=True)
def expect_floor(block_BF, deviations, floor_F, start, stop):
    """Set the floor of columns [start, stop) to their mean in this block and `deviations` mean absolute deviations."""
    rows = np.float32(len(block_BF))
    mean_C, deviation_C = np.zeros(stop - start, np.float32), np.zeros(stop - start, np.float32)
    for b in range(len(block_BF)):
        for c in range(stop - start):
            mean_C[c] += block_BF[b, start + c]
    mean_C /= rows
    for b in range(len(block_BF)):
        for c in range(stop - start):
            deviation_C[c] += abs(block_BF[b, start + c] - mean_C[c])
    floor_F[start:stop] = mean_C + np.float32(deviations) / rows * deviation_C
