"""Which way a batch's loss and gradients are computed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from saemd.sae.loss import Loss, Penalty, dense_loss
from saemd.sae.model import JumpReLUSAE

LossFunction = Callable[[JumpReLUSAE, Tensor, Penalty], Loss]


def make_loss(fast: bool) -> LossFunction:
    """`dense_loss`, the plain reference, which also runs on a GPU; with `fast`, on a CPU, a new `FastLoss`."""
    if not fast:
        return dense_loss
    on_cpu: LossFunction | None = None

    def loss(sae: JumpReLUSAE, x_BD: Tensor, penalty: Penalty) -> Loss:
        nonlocal on_cpu
        if x_BD.device.type != "cpu":
            return dense_loss(sae, x_BD, penalty)
        if on_cpu is None:
            from saemd.sae.fast import FastLoss  # numba is needed here alone

            on_cpu = FastLoss()
        return on_cpu(sae, x_BD, penalty)

    return loss
