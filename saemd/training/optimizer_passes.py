"""The passes of `optimizer.SAEAdam` on a GPU: one for the gradient's norm, one for everything after it.

Plain functions of tensors, compiled on CUDA (`saemd.sae.fused`). Shape suffixes: D d_in, F latents. A stack's tensors
have one axis more in front; its norms, learning rates and corrections have the shape [S].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from saemd.sae import SAE
from saemd.sae.fused import fused
from saemd.sae.rounded import rows
from saemd.training.constraints import Constraints, held

Number: TypeAlias = float | Tensor  # of a stack: a tensor [S]


def step_(
    sae: SAE, groups: Sequence[dict[str, Any]], states: Mapping[Tensor, dict[str, Any]], lrs: Sequence[Tensor],
    correction: Tensor, max_norm: Number, beta1: float, beta2: Number, eps: Number,
    constraints: Constraints,
) -> Tensor:  # fmt: skip
    """Update every parameter of an SAE, or a stack, by one pass, which renews the bfloat16 copies that its loss uses.

    `lrs` are the learning rates of the optimizer's `groups`, divided by 1 − β₁ᵗ; `correction` = 1/√(1 − β₂ᵗ).
    Returns the gradient's norm.
    """
    W_dec = sae.W_dec
    assert W_dec.grad is not None
    shrink, decoder_moves, encoder_moves, cosine, start = constraints
    others = {name: rows(p.grad) for name, p in sae.named_parameters() if p is not W_dec and p.grad is not None}
    encoder = None if encoder_moves is None else others.pop("W_enc")
    along_F, norm = gradient_norm(W_dec.detach(), W_dec.grad, [*others.values()], decoder_moves, encoder, encoder_moves)
    own: dict[str, dict[str, Any]] = {
        "W_enc": {"shrink": shrink, "moves": encoder_moves},
        "W_dec": {"moves": decoder_moves, "cosine": cosine, "start_FD": start},
    }
    names = {id(p): name for name, p in sae.named_parameters()}
    for group, lr in zip(groups, lrs, strict=True):
        for p in group["params"]:
            name = names[id(p)]
            rounded = sae.rounded.get(name, p, torch.bfloat16) if name in sae.rounded else None
            mean = rows(states[p]["mean"]) if beta1 else None
            adam_(
                rows(p), rows(p.grad), rows(states[p]["square"]), mean, rounded, along_F if p is W_dec else None, norm,
                lr, correction, max_norm, beta1, beta2, eps, **own.get(name, {}),
            )  # fmt: skip
            if rounded is not None:
                sae.rounded.keep(name, p, rounded)
    return norm


@fused
def gradient_norm(
    W_dec_FD: Tensor,
    grad_FD: Tensor,
    others: list[Tensor],
    decoder_moves: Tensor | None = None,
    encoder: Tensor | None = None,
    encoder_moves: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(along [F], the norm of the whole gradient, W_dec's part without what lies along its rows: g − along · W).

    With w = W/(‖W‖ + 1e-6), as `dictionary_learning` has it, that is g − ⟨g, w⟩w. Nothing is written: the next pass
    subtracts it again. The gradient of a matrix that does not move does not count; W_enc's is `encoder` where it may
    be frozen, and else one of `others`.
    """
    g_FD = grad_FD.float()
    norm_F = W_dec_FD.pow(2).sum(-1)
    dot_F = (g_FD * W_dec_FD).sum(-1)
    along_F = dot_F / (norm_F.sqrt() + 1e-6).pow(2)
    square_F = g_FD.pow(2).sum(-1) + along_F.pow(2) * norm_F - 2 * along_F * dot_F
    total = square_F.clamp(min=0).sum(-1)
    if decoder_moves is not None:
        total = torch.where(decoder_moves, total, 0.0)
    if encoder is not None and encoder_moves is not None:
        square = encoder.float().pow(2).flatten(total.dim()).sum(-1)
        total = total + torch.where(encoder_moves, square, 0.0)
    for grad in others:
        total = total + grad.float().pow(2).flatten(total.dim()).sum(-1)
    return along_F, total.sqrt()


@fused
def adam_(
    parameter: Tensor, grad: Tensor, square: Tensor, mean: Tensor | None, rounded: Tensor | None,
    along_F: Tensor | None, norm: Tensor, lr: Tensor, correction: Tensor, max_norm: Number, beta1: float,
    beta2: Number, eps: Number, shrink: Tensor | None = None, moves: Tensor | None = None,
    cosine: Tensor | None = None, start_FD: Tensor | None = None,
) -> None:  # fmt: skip
    """Adam on a vector or on rows [F, D], of the gradient clipped to `max_norm`, in place; without `mean`, β₁ is 0.

    `lr` is divided by 1 − β₁ᵗ, `correction` = 1/√(1 − β₂ᵗ). `rounded` takes a copy of the result in its own dtype. With
    `along_F` the part of the gradient along each row is removed, and the rows are divided by their norm at the end.
    `shrink`, `moves`, `cosine` and `start_FD` are those of `constraints.Constraints`.
    """
    ones = [1] * (parameter.dim() - norm.dim())

    def each(value: Any) -> Any:
        return value.reshape(*value.shape, *ones) if isinstance(value, Tensor) else value

    g = grad.float()
    if along_F is not None:
        g = g - along_F.unsqueeze(-1) * parameter
    g = g * each((max_norm / (norm + 1e-6)).clamp(max=1.0))
    v = each(beta2) * square + (1 - each(beta2)) * g * g
    m = g if mean is None else beta1 * mean + (1 - beta1) * g
    w = parameter if shrink is None else parameter * each(shrink)
    w = w - each(lr) * m / (v.sqrt() * each(correction) + each(eps))
    if along_F is not None:
        w = w / (w.pow(2).sum(-1, keepdim=True).sqrt() + torch.finfo(torch.float32).eps)
    if start_FD is not None:
        w = held(w, start_FD, each(cosine))
    if moves is not None:
        w = torch.where(each(moves), w, parameter)
    square.copy_(v)
    if mean is not None:
        mean.copy_(m)
    parameter.copy_(w)
    if rounded is not None:
        rounded.copy_(w)
