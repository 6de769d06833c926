"""Upper bounds of all cosines from products of bytes, which some CPUs multiply eight times as fast as float32."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from saemd.stability.matching.cosines import BLOCK_ROWS, ROUNDING, Cosines, Dictionary, in_parts
from saemd.stability.matching.rotation import MOVED, rotated

BLOCK_COLUMNS = 2304  # of a block's rows, multiplied as bytes at a time


class ByteCosines(Cosines):
    """Bounds from unit rows, rotated and rounded to 8 bits, one scale a row: a = ã + δ, b = b̃ + ε, rounded ã, b̃.

    Then a·b = ã·b̃ + ã·ε + δ·b, so it is at most ã·b̃ + |ã||ε| + |δ||b|. For rows of width 2,304 both |δ| and |ε| are
    0.8 %, while the sums they bound are fifty times smaller. Without the rotation, axes that decay like k^-0.5 would
    make them 4 %.
    """

    exact = False

    def __init__(self, a: Dictionary, b: Dictionary, pool: ThreadPoolExecutor) -> None:
        super().__init__(a, b, pool)
        self._a8, self._b8 = _rounded(a, pool), _rounded(b, pool)
        self.mean_error = float(self._a8.errors.mean() + self._b8.errors.mean())

    def blocks(self) -> Iterator[np.ndarray]:
        a8, b8, error_F = self._a8, self._b8, self._column_errors()
        rows = min(BLOCK_ROWS, self.size)
        out_BF, sums = np.empty((rows, self.size), np.float32), torch.empty(rows * BLOCK_COLUMNS, dtype=torch.int32)
        for start in range(0, self.size, BLOCK_ROWS):
            part, rows = slice(start, start + BLOCK_ROWS), min(rows, self.size - start)
            for first in range(0, self.size, BLOCK_COLUMNS):
                some = slice(first, min(first + BLOCK_COLUMNS, self.size))
                sum_BC = sums[: rows * (some.stop - first)].view(rows, -1)
                torch.ops.aten._int_mm.out(a8.rows[part], b8.rows[some].T, out=sum_BC)
                arrays = (sum_BC.numpy(), a8.scales[part], b8.scales[some], a8.errors[part], error_F[some])
                in_parts(self._pool, rows, partial(_bound, *arrays, out_BF, first))
            yield out_BF[:rows]

    def allowance(self, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
        """All that is added to ã·b̃: a row's rounding error seldom points in the other row's direction."""
        return self._a8.errors[row_E] + self._column_errors()[column_E]

    def _column_errors(self) -> np.ndarray:
        return self._b8.errors * (1 + self._a8.errors.max()) + np.float32(ROUNDING + MOVED)  # |ã| <= |a| + |δ|


class Bytes(NamedTuple):
    """Unit rows rounded to multiples of a scale of their own."""

    rows: Tensor  # int8 [F, D]
    scales: np.ndarray  # float32 [F]
    errors: np.ndarray  # float32 [F]: norm of the rounding error


def _rounded(dictionary: Dictionary, pool: ThreadPoolExecutor) -> Bytes:
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for rows_BD, factor_B in zip(*(part.split(BLOCK_ROWS) for part in dictionary), strict=True):
        rotated_BD = rotated(rows_BD).numpy()
        out_BD = np.empty(rotated_BD.shape, np.int8)
        scale_B, error_B = (np.empty(len(rotated_BD), np.float32) for _ in range(2))
        arrays = (rotated_BD, factor_B.numpy(), out_BD, scale_B, error_B)
        in_parts(pool, len(rotated_BD), partial(_round, *arrays))
        parts.append((out_BD, scale_B, error_B))
    rows_FD, scale_F, error_F = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Bytes(torch.from_numpy(rows_FD), scale_F, error_F)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _round(rows_FD, factor_F, out_FD, scale_F, error_F, start, stop):
    for i in range(start, stop):
        row_D, out_D, largest, error = rows_FD[i], out_FD[i], np.float32(0), np.float32(0)
        for d in range(row_D.shape[0]):
            largest = max(largest, abs(row_D[d]))
        step = largest / np.float32(127)
        inverse = np.float32(1) / step if step > 0 else np.float32(0)
        for d in range(row_D.shape[0]):
            steps = row_D[d] * inverse
            whole = np.rint(steps)
            out_D[d] = np.int8(whole)
            error += (steps - whole) ** np.float32(2)
        scale_F[i] = step * factor_F[i]
        error_F[i] = np.sqrt(error) * scale_F[i]


@njit(nogil=True, cache=True)
def _bound(sum_BC, a_scale_B, b_scale_C, a_error_B, b_error_C, out_BF, first, start, stop):
    """Rows [start, stop) of the bounds, in columns from `first` on, from sums of products of bytes."""
    for b in range(start, stop):
        scale, error = a_scale_B[b], a_error_B[b]
        out_C = out_BF[b, first : first + len(b_scale_C)]
        for c in range(len(b_scale_C)):
            out_C[c] = np.float32(sum_BC[b, c]) * (scale * b_scale_C[c]) + (error + b_error_C[c])
