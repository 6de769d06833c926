"""Rows of a window into a batch: picked, widened from bfloat16 to float32 and scaled."""

from __future__ import annotations

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


def batches(
    windows: Iterator[tuple[np.ndarray, np.ndarray]],
    batch_size: int,
    factor: np.float32,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Tensor]:
    """Batches of rows · factor out of `(rows [N, D] bfloat16 bits, order [M])`, row `order[i]` being the i-th.

    A window's rest that fills no batch goes into the next window's first batch; the very last batch may be smaller.
    A window may be overwritten as soon as the next one is asked for.
    """
    gather = fastest_gather()
    batch_BD, filled = None, 0
    for rows_ND, order in windows:
        start = 0
        while start < len(order):
            batch_BD = np.empty((batch_size, rows_ND.shape[1]), np.float32) if batch_BD is None else batch_BD
            part = order[start : start + batch_size - filled]
            gather(rows_ND, part, factor, batch_BD[filled : filled + len(part)])
            start += len(part)
            filled += len(part)
            if filled == batch_size:
                yield torch.from_numpy(batch_BD).to(dtype)
                batch_BD, filled = None, 0
    if batch_BD is not None:
        yield torch.from_numpy(batch_BD)[:filled].to(dtype)
