"""JumpReLU and the step function with their straight-through gradients.

Shape suffixes: B tokens in a batch, D d_in, F latents.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rectangle(u: Tensor) -> Tensor:
    """The kernel K(u) = 1 where −½ < u < ½, else 0, as the dtype of `u`."""
    return ((u > -0.5) & (u < 0.5)).to(u.dtype)


class JumpReLU(torch.autograd.Function):
    """z = pre · 1[pre > θ]  (paper, eq. 3).

    Straight-through gradients of Rajamanoharan et al. (arXiv 2407.14435, eq. 11), with K the rectangle of width ε:
        ∂z/∂pre = 1[pre > θ]
        ∂z/∂θ   = −(θ/ε) · K((pre − θ)/ε)
    """

    @staticmethod
    def forward(ctx, pre_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(pre_BF, threshold_F)
        ctx.bandwidth = bandwidth
        return pre_BF * (pre_BF > threshold_F)

    @staticmethod
    def backward(ctx, grad_BF: Tensor):  # type: ignore[override]
        pre_BF, threshold_F = ctx.saved_tensors
        near_BF = rectangle((pre_BF - threshold_F) / ctx.bandwidth)
        grad_threshold_F = (-(threshold_F / ctx.bandwidth) * near_BF * grad_BF).sum(0)
        return grad_BF * (pre_BF > threshold_F), grad_threshold_F, None


class Step(torch.autograd.Function):
    """1[s > θ], whose sum over latents is L0.

    Straight-through gradients (arXiv 2407.14435, eq. 12): ∂/∂s = 0, ∂/∂θ = −(1/ε) · K((s − θ)/ε). Here s should be the
    pre-activation. `dictionary_learning` passes what JumpReLU returned (its issue 55), so that the half of the window
    below θ never counts, and every zero counts once θ < ε/2.
    """

    @staticmethod
    def forward(ctx, s_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(s_BF, threshold_F)
        ctx.bandwidth = bandwidth
        return (s_BF > threshold_F).to(s_BF.dtype)

    @staticmethod
    def backward(ctx, grad_BF: Tensor):  # type: ignore[override]
        s_BF, threshold_F = ctx.saved_tensors
        near_BF = rectangle((s_BF - threshold_F) / ctx.bandwidth)
        return None, (-(1.0 / ctx.bandwidth) * near_BF * grad_BF).sum(0), None
