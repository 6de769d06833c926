"""Which of the three ways to compute cosines comes first on this machine."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from saemd.sae import products
from saemd.stability.matching.byte_cosines import ByteCosines
from saemd.stability.matching.candidates import Candidates, gather
from saemd.stability.matching.cosines import Cosines, Dictionary
from saemd.stability.matching.device_cosines import DeviceCosines, bytes_needed

SMALLEST = 4096  # latents below which float32 products take no time that shows


def fastest_first(
    a: Dictionary, b: Dictionary, pool: ThreadPoolExecutor, device: torch.device | None = None
) -> Iterator[Cosines]:
    """How to compute these cosines, the fastest way first; float32 is last, and always able to prove.

    `device` None: a GPU if there is one with enough free memory, else the CPU. Small dictionaries stay on the CPU then.
    """
    large = len(a.factors) >= SMALLEST
    if device is None and large and torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > bytes_needed(a):
        device = torch.device("cuda")
    if device is not None and device.type != "cpu":
        yield DeviceCosines(a, b, pool, device)
    if large and bytes_are_faster():
        yield ByteCosines(a, b, pool)
    yield Cosines(a, b, pool)


def candidates_of(cosines: Cosines, keep: int, pool: ThreadPoolExecutor) -> Candidates:
    """The largest cosines, or bounds, of every row and column, chosen where they are computed."""
    if isinstance(cosines, DeviceCosines):
        return cosines.candidates(keep)
    return gather(cosines.blocks(), cosines.size, keep, pool)


def bytes_are_faster() -> bool:
    """Whether this CPU has units that multiply bytes (AVX512_VNNI, AMX_INT8)."""
    return products.cpu_can("avx512_vnni") or products.cpu_can("amx_int8")
