"""The cosines of two dictionaries' rows: upper bounds of all, quickly, and exact values of those that matter.

Of F² pairs the matching needs the exact cosine of a few; for the others an upper bound below their prices is proof
enough. `Cosines` computes all pairs in float32; `byte_cosines` computes bounds from bytes, where that is faster.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from saemd.sae import products

BLOCK_ROWS = 1024  # rows of the matrix computed at a time
CACHED = 8 << 20  # bytes of rows that stay in a processor's last cache
ROUNDING = 1e-6  # of a cosine summed in float32, at most


class Dictionary(NamedTuple):
    """A dictionary, not copied, and the factors that give its rows norm 1 (0 for zero rows)."""

    rows: Tensor  # float32 [F, D], on the CPU, contiguous
    factors: Tensor  # float32 [F]


class Cosines:
    """The matrix of cosines [F, F] of the rows of two dictionaries, all of them computed in float32."""

    exact = True  # whether `blocks` are the cosines themselves

    def __init__(self, a: Dictionary, b: Dictionary, pool: ThreadPoolExecutor) -> None:
        self._a, self._b, self._pool = a, b, pool

    def blocks(self) -> Iterator[np.ndarray]:
        """Upper bounds of the cosines, float32 [B, F], some rows at a time; the next block may overwrite this one."""
        for row_R in np.split(np.arange(self.size), range(BLOCK_ROWS, self.size, BLOCK_ROWS)):
            yield self.rows(row_R)

    def rows(self, row_R: np.ndarray) -> np.ndarray:
        """Cosines of whole rows, float32 [R, F], exact to rounding."""
        chosen = torch.from_numpy(row_R)
        with products.exact():
            product_RF = (self._a.rows[chosen] * self._a.factors[chosen, None]) @ self._b.rows.T
        return product_RF.mul_(self._b.factors).numpy()

    def allowance(self, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
        """How far `blocks` probably lie above these cosines, float32 [E]."""
        return np.zeros(len(row_E), dtype=np.float32)

    def pairs(self, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
        """Cosines of single pairs, float32 [E], exact to rounding and always the same bits.

        Computed one stretch of columns after the other, so that the processor's cache holds the stretch.
        """
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


def in_parts(pool: ThreadPoolExecutor, length: int, work: Callable[[int, int], Any], parts: int = 4) -> list[Any]:
    """`work(start, stop)` for [0, length) in up to `parts` consecutive ranges, by the pool's threads; its results."""
    edges = np.linspace(0, length, min(parts, length) + 1).astype(int).tolist()
    return [job.result() for job in [pool.submit(work, *part) for part in pairwise(edges)]]


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _dots(a_FD, a_factor_F, b_FD, b_factor_F, row_E, column_E, out_E, start, stop):
    """Cosines of the pairs [start, stop)."""
    for e in range(start, stop):
        i, j, total = row_E[e], column_E[e], np.float32(0)
        a_D, b_D = a_FD[i], b_FD[j]
        for d in range(a_D.shape[0]):
            total += a_D[d] * b_D[d]
        out_E[e] = total * a_factor_F[i] * b_factor_F[j]
