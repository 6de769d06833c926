"""Which way a batch's loss and gradients are computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from saemd.sae.loss import Loss, Penalty, dense_loss
from saemd.sae.model import JumpReLUSAE

LossFunction = Callable[[JumpReLUSAE, Tensor, Penalty], Loss]


def make_loss(fast: bool) -> LossFunction:
    """`dense_loss`, the plain reference; with `fast` a new `FastLoss` on a CPU, `HalfLoss` on a GPU with bfloat16."""
    if not fast:
        return dense_loss
    chosen: dict[str, LossFunction] = {}

    def loss(sae: JumpReLUSAE, x_BD: Tensor, penalty: Penalty) -> Loss:
        kind = x_BD.device.type
        if kind not in chosen:
            chosen[kind] = _fastest(kind)
        return chosen[kind](sae, x_BD, penalty)

    return loss


def _fastest(kind: str) -> LossFunction:
    if kind == "cpu":
        from saemd.sae.fast import FastLoss  # numba is needed here alone

        return FastLoss()
    if multiplies_bfloat16(kind):
        from saemd.sae.half import HalfLoss

        return HalfLoss()
    return dense_loss


@lru_cache
def multiplies_bfloat16(kind: str) -> bool:
    """Whether devices of this kind are NVIDIA's with bfloat16 units (Ampere and later)."""
    return kind == "cuda" and torch.version.cuda is not None and torch.cuda.is_bf16_supported(False)
