"""The loops behind `batch.BatchPlan`, compiled by numba at their first call.

One call makes a batch without Python's lock. Two threads that read piece by piece in Python spend as long waiting for
the lock as reading. A call uses its caller's thread alone: the training step's loops use all of numba's threads at the
same time, and numba's default threads refuse two callers at once.
"""

import os

import numpy as np
from numba import njit, types

PIECE = 1 << 17  # bytes announced at once, Linux's usual read-ahead: of a larger piece it reads only the beginning
WILL_NEED, ONLY_CACHED = os.POSIX_FADV_WILLNEED, os.RWF_NOWAIT

# The C library's own functions; an address is passed as an integer.
_pread = types.ExternalFunction("pread", types.intp(types.intc, types.uintp, types.uintp, types.int64))
_preadv2 = types.ExternalFunction("preadv2", types.intp(types.intc, types.uintp, types.intc, types.int64, types.intc))
_posix_fadvise = types.ExternalFunction("posix_fadvise", types.intc(types.intc, types.int64, types.int64, types.intc))


@njit(nogil=True, cache=True)
def _widen(bits_V, factor, out_V):
    for i in range(bits_V.shape[0]):
        wide = np.uint32(np.uint32(bits_V[i]) << np.uint32(16))  # numba shifts in 64 bits
        out_V[i] = wide.view(np.float32) * factor


@njit(nogil=True, cache=True)
def read_widened(parts_P3, factor, scratch_V, out_V):
    """Fill `out_V` (float32) with the parts' bfloat16 values · factor; returns how many parts were read completely.

    A part is (file descriptor, first byte, bytes). `scratch_V` (uint16) should stay in the processor's cache.
    """
    done = 0
    for p in range(parts_P3.shape[0]):
        file, offset, left = parts_P3[p]
        while left > 0:
            got = _pread(file, scratch_V.ctypes.data, min(left, 2 * scratch_V.shape[0]), offset)
            values = got // 2
            if values < 1:  # an error, or the file's end
                return p
            _widen(scratch_V[:values], factor, out_V[done : done + values])
            done, offset, left = done + values, offset + 2 * values, left - 2 * values
    return parts_P3.shape[0]


@njit(nogil=True, cache=True)
def announce(parts_P3):
    """Ask the system to read the parts into its page cache in the background. Errors are left to the read itself.

    A part counts as cached if its last byte is: asking for every page takes too long.
    """
    byte_1 = np.empty(1, np.uint8)
    vector_2 = np.array([byte_1.ctypes.data, 1], np.int64)  # a struct iovec
    for p in range(parts_P3.shape[0]):
        file, first, size = parts_P3[p]
        end = first + size
        if _preadv2(file, vector_2.ctypes.data, 1, end - 1, ONLY_CACHED) == 1:
            continue
        for offset in range(first, end, PIECE):
            _posix_fadvise(file, offset, min(PIECE, end - offset), WILL_NEED)
