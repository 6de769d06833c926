"""Making batches: the compiled loop against its reference, over the ends of windows."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from saemd.activations.gather import batches, fastest_gather, gather_plain
from saemd.activations.kernels import gather

Windows = Iterator[tuple[np.ndarray, np.ndarray]]


def bits(n: int, d: int) -> np.ndarray:
    """Every finite bfloat16 there is: denormals, both zeros, the largest."""
    rows = np.random.default_rng(0).integers(0, 1 << 16, (n, d)).astype(np.uint16)
    return np.where((rows & 0x7F80) == 0x7F80, rows & 0x807F, rows)


@pytest.mark.parametrize("width", [1, 7, 64, 577])
@pytest.mark.parametrize("factor", [1.0, 1 / 146.3, 3e-39, 1e30])
def test_compiled_is_the_reference_bit_for_bit(width: int, factor: float) -> None:
    rows_ND = bits(300, width)
    order = np.random.default_rng(1).permutation(300)[:200]
    plain_BD, compiled_BD = np.empty((200, width), np.float32), np.full((200, width), np.nan, np.float32)
    with np.errstate(over="ignore", under="ignore"):
        gather_plain(rows_ND, order, np.float32(factor), plain_BD)
    gather(rows_ND, order, np.float32(factor), compiled_BD)
    assert np.array_equal(plain_BD.view(np.uint32), compiled_BD.view(np.uint32))
    wanted = torch.from_numpy(rows_ND[order]).view(torch.bfloat16).float() * float(np.float32(factor))
    assert torch.equal(torch.from_numpy(plain_BD), wanted)


@pytest.mark.parametrize("missing", ["numba", "llvmlite"])  # without numba its part llvmlite may be missed first
def test_reference_is_taken_without_numba(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    assert fastest_gather() is gather
    fastest_gather.cache_clear()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, missing, None)
        patched.delitem(sys.modules, "saemd.activations.kernels")
        assert fastest_gather() is gather_plain
    fastest_gather.cache_clear()


def windows(rows_ND: np.ndarray, sizes: list[int]) -> Windows:
    """One buffer for all of them, as the stream has it."""
    buffer_ND, start = np.empty_like(rows_ND), 0
    for i, n in enumerate(sizes):
        buffer_ND[:] = 0
        buffer_ND[:n] = rows_ND[start : start + n]
        yield buffer_ND, np.random.default_rng(i).permutation(n)
        start += n


@pytest.mark.parametrize("sizes", [[300], [10, 290], [64, 1, 1, 200, 34], [150, 150]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_run_on_over_windows(sizes: list[int], dtype: torch.dtype) -> None:
    rows_ND = bits(300, 5)
    made = list(batches(windows(rows_ND, sizes), 64, np.float32(0.5), dtype))
    assert [len(batch) for batch in made] == [64, 64, 64, 64, 44]
    wanted = np.concatenate([window[order] for window, order in ((w.copy(), o) for w, o in windows(rows_ND, sizes))])
    expected = (torch.from_numpy(wanted).view(torch.bfloat16).float() * 0.5).to(dtype)
    assert torch.equal(torch.cat(made), expected)


def test_what_is_kept_is_not_overwritten() -> None:
    rows_ND = bits(400, 3)
    made = list(batches(windows(rows_ND, [150, 250]), 4, np.float32(1)))
    assert len({batch.data_ptr() for batch in made}) == 100


def test_a_batch_is_made_fast() -> None:
    """A batch of the default size; the bound is loose, as neighbours may be busy."""
    rows_ND = bits(20_000, 576)
    order = np.random.default_rng(1).permutation(20_000)
    out_BD = np.empty((2048, 576), np.float32)
    for way in (gather, gather_plain):
        seconds = []
        for i in range(8):
            started = time.perf_counter()
            way(rows_ND, order[i * 2048 : (i + 1) * 2048], np.float32(0.5), out_BD)
            seconds.append(time.perf_counter() - started)
        assert min(seconds) < 0.02
