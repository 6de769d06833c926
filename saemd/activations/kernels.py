"""The loop behind `gather.gather_plain`, compiled by numba at its first call.

One thread, and none of numba's own: batches are made beside the training step, whose loops use all of them, and numba's
default threads refuse to be entered by two callers at once.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

AHEAD = 2  # rows asked of the memory before they are needed; 1, 4 and 8 are slower
LINE = 64  # bytes that come together


@intrinsic
def prefetch(typing, address):  # type: ignore[no-untyped-def]
    """Have the processor bring the cache line of an address, without waiting for it."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        read_soon_data = [ir.Constant(word, value) for value in (0, 3, 1)]
        builder.call(function, [builder.inttoptr(arguments[0], pointer), *read_soon_data])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@njit(nogil=True, cache=True)
def gather(rows_ND, order_B, factor, out_BD):
    """out[i] = rows[order[i]] · factor, of C-contiguous arrays: 2 bytes read and 4 written per value, once.

    The rows lie anywhere in a window of hundreds of megabytes; left to itself the processor waits for each.
    """
    n, row_bytes, first = order_B.shape[0], 2 * out_BD.shape[1], rows_ND.ctypes.data
    for i in range(n):
        if i + AHEAD < n:
            address = first + order_B[i + AHEAD] * row_bytes
            for offset in range(0, row_bytes, LINE):
                prefetch(address + offset)  # type: ignore[call-arg]
        row_D, out_D = rows_ND[order_B[i]], out_BD[i]
        for d in range(out_D.shape[0]):
            wide = np.uint32(np.uint32(row_D[d]) << np.uint32(16))  # numba shifts in 64 bits
            out_D[d] = wide.view(np.float32) * factor
