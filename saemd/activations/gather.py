"""Rows of a window into a batch: picked, widened from bfloat16 to float32 and scaled."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from saemd.activations.shards import to_float

Gather = Callable[[np.ndarray, np.ndarray, np.float32, np.ndarray], None]


def gather_plain(rows_ND: np.ndarray, order_B: np.ndarray, factor: np.float32, out_BD: np.ndarray) -> None:
    """out[i] = rows[order[i]] · factor, from bfloat16 bits (uint16) to float32: the reference."""
    np.multiply(to_float(rows_ND.take(order_B, axis=0)), factor, out=out_BD)


@cache
def fastest_gather() -> Gather:
    """numba's single pass; `gather_plain`, which gives the same bits, where numba is not installed."""
    try:
        from saemd.activations.kernels import gather
    except ModuleNotFoundError as error:
        if error.name not in ("numba", "llvmlite"):  # llvmlite is a part of it
            raise
        return gather_plain
    return gather


class BatchMemory:
    """Arrays [B, D] float32 for batches, each used again once nobody holds a tensor that lies in it.

    Fresh memory costs as much as the arithmetic: the kernel clears every page. Who keeps a batch keeps its array, and
    another is made in its place; at most `spare` arrays wait here.
    """

    def __init__(self, batch_size: int, d_in: int, spare: int) -> None:
        self.batch_size, self._shape, self._spare = batch_size, (batch_size, d_in), spare
        self._free: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """An array whose content is anything; it comes back by itself, when it and all tensors from it are gone."""
        array = self._free.pop() if self._free else np.empty(self._shape, np.float32)
        lent = array.view()  # `torch.from_numpy` keeps this object alive as long as the storage
        weakref.finalize(lent, self._give_back, array).atexit = False
        return lent

    def _give_back(self, array: np.ndarray) -> None:
        if len(self._free) < self._spare:
            self._free.append(array)


def batches(
    windows: Iterator[tuple[np.ndarray, np.ndarray]],
    memory: BatchMemory,
    factor: np.float32,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Tensor]:
    """Batches of rows · factor out of `(rows [N, D] bfloat16 bits, order [M])`, row `order[i]` being the i-th.

    A window's rest that fills no batch goes into the next window's first batch; the very last batch may be smaller.
    A window may be overwritten as soon as the next one is asked for.
    """
    gather, size = fastest_gather(), memory.batch_size
    batch_BD, filled = None, 0
    for rows_ND, order in windows:
        start = 0
        while start < len(order):
            batch_BD = memory.take() if batch_BD is None else batch_BD
            part = order[start : start + size - filled]
            gather(rows_ND, part, factor, batch_BD[filled : filled + len(part)])
            start += len(part)
            filled += len(part)
            if filled == size:
                made = torch.from_numpy(batch_BD).to(dtype)
                batch_BD, filled = None, 0
                yield made
                del made
    if batch_BD is not None:
        yield torch.from_numpy(batch_BD)[:filled].to(dtype)
