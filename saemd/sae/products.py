"""The encoder's product on a CPU: through oneDNN, in bfloat16 where the CPU's units make that faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

# |bf16 product − exact| ≤ 2⁻⁸·(1 + 2⁻⁹)·Σ|xᵢwᵢ| ≤ this · ‖x‖‖w‖: both factors are rounded to 8 bits, sums are float32.
BF16_ERROR = 2**-8 * 1.01


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


def encode(x_BD: Tensor, W_enc_FD: Tensor, out_BF: Tensor) -> bool:
    """out = x W_encᵀ; returns whether it is exact to float32 rounding (else to `BF16_ERROR`)."""
    with onednn():
        torch.mm(x_BD, W_enc_FD.T, out=out_BF)
    return is_exact()
