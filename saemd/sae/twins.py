"""Fast twins: an architecture's loss and gradients in closed form on one kind of device, found here and nowhere else.

A twin is called as `twin(sae, x, at)`, gives what `sae.objective(x, at)` gives, to rounding, and fills `Loss.grads`. To
add one: a file in a room of the architecture's own, a line in `_twin`, and a test that holds it to `objective`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from saemd.sae.base import SAE, Loss, Progress

Twin = Callable[[Any, Tensor, Progress], Loss]


def fast_twin(sae: SAE, device: torch.device) -> Twin | None:
    """A new twin for an SAE that trains on `device`; None where its plain objective is the fastest there is.

    Prints a line where a setting of the SAE is the reason.
    """
    twin = _twin(sae.config.name, device.type)
    if twin is not None and (setting := sae.config.beyond_twins()):
        from saemd.progress import print_line  # needs rich, which training does not

        print_line(f"{setting}: the fast path does not compute it; this run trains by the plain loss, which is slower")
        return None
    return twin


def has_gpu_twin(architecture: str, device: torch.device) -> bool:
    """Whether `device` is a GPU and has a twin for SAEs of this architecture."""
    return device.type == "cuda" and _twin(architecture, device.type) is not None


def _twin(architecture: str, device: str) -> Twin | None:
    if architecture == "jumprelu" and device == "cpu":
        from saemd.sae.jumprelu_fast.cpu import FastLoss  # numba is needed here alone

        return FastLoss()
    if architecture == "jumprelu" and multiplies_bfloat16(device):
        from saemd.sae.jumprelu_fast.gpu import HalfLoss

        return HalfLoss()
    return None


@lru_cache
def multiplies_bfloat16(device: str) -> bool:
    """Whether devices of this kind are NVIDIA's with bfloat16 units (Ampere and later)."""
    return device == "cuda" and torch.version.cuda is not None and torch.cuda.is_bf16_supported(False)
