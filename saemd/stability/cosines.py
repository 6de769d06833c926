"""The cosines of two dictionaries' rows: upper bounds of all, quickly, and exact values of those that matter.

Of F² pairs the matching needs the exact cosine of a few; for the others a bound below their prices is proof enough. So
where the CPU multiplies bytes faster than float32 (eight times on a Zen 4), all pairs are multiplied as bytes, with a
bound of what rounding took off, and the few once more in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numba import njit
from torch import Tensor

from saemd.sae import products

BLOCK_ROWS = 1024  # rows of the matrix computed at a time
BLOCK_COLUMNS = 2304  # of these rows, multiplied as bytes at a time
SMALLEST = 4096  # latents below which float32 products take no time that shows
COARSEST = 0.03  # rounding to bytes may move a cosine by this in the mean, or all is multiplied in float32
CACHED = 8 << 20  # bytes of rows that stay in a processor's last cache
ROUNDING = 1e-6  # of a cosine summed in float32, at most


class Dictionary(NamedTuple):
    """A dictionary and what its rows must be multiplied by to have norm 1 (0 for zero rows): no second copy of it."""

    rows: Tensor  # float32 [F, D], on the CPU, contiguous
    factors: Tensor  # float32 [F]


class Cosines(Protocol):
    """The matrix of cosines [F, F] of the rows of two dictionaries."""

    exact: bool  # whether `blocks` are the cosines themselves

    def blocks(self) -> Iterator[np.ndarray]:
        """No less than the cosines, float32 [B, F], some rows at a time; a block may be overwritten by the next."""
        ...

    def allowance(self, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
        """By how much `blocks` are likely to lie above these cosines, float32 [E]."""
        ...

    def pairs(self, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
        """Cosines of single pairs, float32 [E], exact to rounding and always the same bits."""
        ...

    def rows(self, row_R: np.ndarray) -> np.ndarray:
        """Cosines of whole rows, float32 [R, F], exact to rounding."""
        ...


class FloatCosines:
    """All of them in float32."""

    exact = True

    def __init__(self, a: Dictionary, b: Dictionary, pool: ThreadPoolExecutor) -> None:
        self._a, self._b, self._pool = a, b, pool

    def blocks(self) -> Iterator[np.ndarray]:
        for row_R in np.split(np.arange(self.size), range(BLOCK_ROWS, self.size, BLOCK_ROWS)):
            yield self.rows(row_R)

    def rows(self, row_R: np.ndarray) -> np.ndarray:
        chosen = torch.from_numpy(row_R)
        with products.exact():
            product_RF = (self._a.rows[chosen] * self._a.factors[chosen, None]) @ self._b.rows.T
        return product_RF.mul_(self._b.factors).numpy()

    def allowance(self, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
        return np.zeros(len(row_E), dtype=np.float32)

    def pairs(self, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
        """Those of one stretch of columns after the other, which the processor's cache holds while rows pass by."""
        stretch_E = column_E // max(1, CACHED // max(1, 4 * self._b.rows.shape[1]))
        order_E = np.lexsort((row_E, stretch_E))
        row_E, column_E, sorted_E = row_E[order_E], column_E[order_E], np.empty(len(row_E), np.float32)
        dictionaries = [part.numpy() for part in (*self._a, *self._b)]
        in_parts(self._pool, len(row_E), partial(_dots, *dictionaries, row_E, column_E, sorted_E), parts=64)
        out_E = np.empty_like(sorted_E)
        out_E[order_E] = sorted_E
        return out_E

    @property
    def size(self) -> int:
        return len(self._a.factors)


class ByteCosines(FloatCosines):
    """Bounds from unit rows rounded to 8 bits, one scale a row: a = ã + δ, b = b̃ + ε with ã, b̃ the rounded ones.

    Then a·b = ã·b̃ + ã·ε + δ·b, so it is at most ã·b̃ + |ã||ε| + |δ||b|. For Gaussian rows of width 2,304 both |δ| and
    |ε| are 0.8 %, while the sums they bound are fifty times smaller.
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
                given = (sum_BC.numpy(), a8.scales[part], b8.scales[some], a8.errors[part], error_F[some])
                in_parts(self._pool, rows, partial(_bound, *given, out_BF, first))
            yield out_BF[:rows]

    def allowance(self, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
        """All that is added to ã·b̃: what rounding took off a row seldom points where the other row does."""
        return self._a8.errors[row_E] + self._column_errors()[column_E]

    def _column_errors(self) -> np.ndarray:
        return self._b8.errors * (1 + self._a8.errors.max()) + np.float32(ROUNDING)  # |ã| <= |a| + |δ|


class Bytes(NamedTuple):
    """Unit rows rounded to multiples of a scale of their own."""

    rows: Tensor  # int8 [F, D]
    scales: np.ndarray  # float32 [F]
    errors: np.ndarray  # float32 [F]: norm of what rounding took off


def fastest_first(a: Dictionary, b: Dictionary, pool: ThreadPoolExecutor) -> Iterator[Cosines]:
    """The ways that pay for these rows on this CPU; where bounds prove nothing in time, float32 is left."""
    if len(a.factors) >= SMALLEST and bytes_are_faster():
        found = ByteCosines(a, b, pool)
        if found.mean_error <= COARSEST:
            yield found
    yield FloatCosines(a, b, pool)


def bytes_are_faster() -> bool:
    """Whether this CPU has units that multiply bytes (AVX512_VNNI, AMX_INT8)."""
    return products.cpu_can("avx512_vnni") or products.cpu_can("amx_int8")


def in_parts(pool: ThreadPoolExecutor, length: int, work: Callable[[int, int], Any], parts: int = 4) -> list[Any]:
    """`work(start, stop)` for [0, length) in up to `parts` consecutive ranges, by the pool's threads; its results."""
    edges = np.linspace(0, length, min(parts, length) + 1).astype(int).tolist()
    return [job.result() for job in [pool.submit(work, *part) for part in pairwise(edges)]]


def _rounded(dictionary: Dictionary, pool: ThreadPoolExecutor) -> Bytes:
    rows_FD = torch.empty(dictionary.rows.shape, dtype=torch.int8)
    scale_F, error_F = (np.empty(len(rows_FD), np.float32) for _ in range(2))
    given = (dictionary.rows.numpy(), dictionary.factors.numpy(), rows_FD.numpy(), scale_F, error_F)
    in_parts(pool, len(rows_FD), partial(_round, *given))
    return Bytes(rows_FD, scale_F, error_F)


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


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _dots(a_FD, a_factor_F, b_FD, b_factor_F, row_E, column_E, out_E, start, stop):
    """Pairs [start, stop)."""
    for e in range(start, stop):
        i, j, total = row_E[e], column_E[e], np.float32(0)
        a_D, b_D = a_FD[i], b_FD[j]
        for d in range(a_D.shape[0]):
            total += a_D[d] * b_D[d]
        out_E[e] = total * a_factor_F[i] * b_factor_F[j]
