"""Matrix products on a CPU: through oneDNN, in bfloat16 where that is asked for and the CPU has units for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

OUTPUT_ERROR = 2**-8  # of a number rounded to bfloat16's 8 bits, relative to itself


class Rounding(NamedTuple):
    """What of a product was rounded to bfloat16, beside float32's own rounding of sums."""

    factors: bool
    output: float  # largest error of the product itself, relative to it


EXACT = Rounding(False, 0.0)


@contextmanager
def onednn() -> Iterator[None]:
    """Float32 products by oneDNN instead of MKL, on CPUs with AMX from factors rounded to bfloat16.

    On processors that are not Intel's, MKL takes its narrow path: 34 ms against 15 ms on a Zen 5, both exact.
    """
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@lru_cache(maxsize=1)
def is_exact() -> bool:
    """Whether `onednn` products are float32 to rounding on this CPU, found out by one."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 256, generator=generator), torch.randn(256, 256, generator=generator)
    with onednn():
        product = a @ b
    return (product.double() - a.double() @ b.double()).abs().max().item() < 1e-3


def exact() -> AbstractContextManager[None]:
    """Float32 products, by oneDNN where it is exact on this CPU, else by MKL."""
    return onednn() if is_exact() else nullcontext()


@lru_cache(maxsize=1)
def halves_are_faster() -> bool:
    """Whether this CPU multiplies bfloat16 itself (AVX512_BF16): twice as fast, where there is no AMX."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16", False))


class Workspace:
    """Memory for bfloat16 factors and products, kept between calls: fresh pages cost as much as rounding."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def rounded(self, name: str, matrix: Tensor) -> Tensor:
        """The matrix in bfloat16, laid out as it is (by rows or by columns)."""
        if not matrix.is_contiguous():
            return self.rounded(name, matrix.T).T
        return self.empty(name, *matrix.shape).copy_(matrix)

    def empty(self, name: str, rows: int, columns: int) -> Tensor:
        size = rows * columns
        if name not in self._kept or len(self._kept[name]) < size:
            self._kept[name] = torch.empty(size, dtype=torch.bfloat16)
        return self._kept[name][:size].view(rows, columns)


def encode(x_BD: Tensor, W_enc_FD: Tensor, out_BF: Tensor, space: Workspace) -> Rounding:
    """out = x W_encᵀ in the fastest way this CPU has; returns what it rounded.

    The way is chosen by the CPU's capabilities, not by a clock: the same run must give the same bits on a busy machine.
    """
    fastest(x_BD, W_enc_FD.T, out_BF, space)
    if not is_exact():
        return Rounding(True, 0.0)
    return Rounding(True, OUTPUT_ERROR) if halves_are_faster() else EXACT


def fastest(a_NK: Tensor, b_KM: Tensor, out_NM: Tensor, space: Workspace) -> None:
    """out = a b, float32; from factors rounded to bfloat16 where this CPU is faster with them."""
    if is_exact() and halves_are_faster():
        product_NM = space.empty("product", *out_NM.shape)
        torch.mm(space.rounded("a", a_NK), space.rounded("b", b_KM), out=product_NM)
        out_NM.copy_(product_NM)
        return
    with onednn():
        torch.mm(a_NK, b_KM, out=out_NM)
