"""Float32 matrix products on a CPU: which library is exact on it, and which units it has."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache

import torch


@contextmanager
def onednn() -> Iterator[None]:
    """Float32 products by oneDNN instead of MKL, on some CPUs from factors rounded to bfloat16.

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
    """Whether `onednn` products are float32 to rounding on this CPU, by the error of one of them."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 256, generator=generator), torch.randn(256, 256, generator=generator)
    with onednn():
        product = a @ b
    return (product.double() - a.double() @ b.double()).abs().max().item() < 1e-3


def exact() -> AbstractContextManager[None]:
    """Float32 products, by oneDNN where it is exact on this CPU, else by MKL."""
    return onednn() if is_exact() else nullcontext()


def halves_are_faster() -> bool:
    """Whether this CPU multiplies bfloat16 itself (AVX512_BF16, AMX).

    Products of bfloat16 factors then take half the time of float32's, with AMX a tenth; half of what oneDNN takes that
    rounds float32 factors itself.
    """
    return cpu_can("avx512_bf16")


@lru_cache
def cpu_can(capability: str) -> bool:
    """Whether torch finds these units in this CPU; False for what it does not know."""
    return bool(getattr(torch.cpu, "get_capabilities", dict)().get(capability, False))
