"""The same loss as `loss.dense_loss`, computed from the active pairs alone: the fast path on a CPU.

Only about L0 of the d_sae latents of a token are active, and only those within half a bandwidth of their threshold
have a straight-through gradient. Of the five matrix products of a step (encode, decode, ∂z, ∂W_dec, ∂W_enc) only the
first needs all pairs of token and latent; the other four run over a list of pairs. `auto_loss` chooses by density.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saemd.sae.loss import Loss, Penalty, dense_loss
from saemd.sae.model import JumpReLUSAE

# Above this share of pairs the dense products win (measured at d_in 576, d_sae 3072).
DENSE_ABOVE = 0.25

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")


def auto_loss(sae: JumpReLUSAE, x_BD: Tensor, penalty: Penalty) -> Loss:
    """`dense_loss` on a GPU or while many latents are active, as at the start of training; else from active pairs."""
    if x_BD.device.type != "cpu":
        return dense_loss(sae, x_BD, penalty)
    with torch.no_grad():
        pre_BF = sae.pre_activations(x_BD)
        # Pairs that are active or in the window: pre > θ − ε/2.
        pairs_P = (pre_BF > sae.threshold - 0.5 * penalty.bandwidth).view(-1).nonzero()[:, 0]
    if len(pairs_P) > DENSE_ABOVE * pre_BF.numel():
        return dense_loss(sae, x_BD, penalty)
    b_enc = sae.b_enc if sae.b_enc is not None else sae.W_enc.new_empty(0)
    total, reconstruction, l0, fired = _PairLoss.apply(
        x_BD, pre_BF, pairs_P, sae.W_enc, b_enc, sae.W_dec, sae.b_dec, sae.threshold, penalty
    )  # type: ignore[misc]
    return Loss(total, reconstruction, l0, fired)


class _PairLoss(torch.autograd.Function):
    """Value and all gradients in one pass over the P pairs; `backward` only hands the gradients out."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
        x_BD: Tensor,
        pre_BF: Tensor,
        pairs_P: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        threshold: Tensor,
        penalty: Penalty,
    ):
        B, d_sae = pre_BF.shape
        width, target = penalty.bandwidth, penalty.target_l0
        token_P = torch.div(pairs_P, d_sae, rounding_mode="floor")
        latent_P = pairs_P - token_P * d_sae
        pre_P = pre_BF.view(-1)[pairs_P]
        theta_P = threshold[latent_P]
        active_P = pre_P > theta_P
        near_P = ((pre_P - theta_P) / width).abs() < 0.5
        z_P = pre_P * active_P

        starts_B1 = _starts(token_P, B)
        x_hat_BD = embedding_bag(latent_P, W_dec, starts_B1[:-1], mode="sum", per_sample_weights=z_P) + b_dec
        error_BD = x_hat_BD - x_BD
        reconstruction = error_BD.pow(2).sum() / B
        grad_x_hat_BD = error_BD * (2 / B)

        pattern = torch.sparse_csr_tensor(starts_B1, latent_P, z_P, (B, d_sae))
        grad_z_P = torch.sparse.sampled_addmm(pattern, grad_x_hat_BD, W_dec.T, beta=0.0).values()
        grad_pre_P = grad_z_P * active_P

        counts_F = torch.bincount(latent_P[active_P], minlength=d_sae)
        l0 = counts_F.sum() / B
        if penalty.step_on == "post":  # there an inactive latent's 0 counts as active once θ < 0
            l0 = l0 + ((B - counts_F) * (threshold < 0)).sum() / B
        total = reconstruction + penalty.coefficient * (l0 / target - 1).pow(2)
        grad_step = penalty.coefficient * 2 * (l0 / target - 1) / (target * B)
        counted_P = near_P if penalty.step_on == "pre" else near_P & active_P
        grad_threshold_P = -(theta_P / width) * near_P * grad_z_P - (1 / width) * grad_step * counted_P

        _, by_latent_P = torch.sort(latent_P, stable=True)
        starts_F1 = _starts(latent_P, d_sae)
        token_P = token_P[by_latent_P]

        def per_latent(weights_P: Tensor, rows_BD: Tensor) -> Tensor:  # [F, D]
            weights_P = weights_P[by_latent_P]
            return embedding_bag(token_P, rows_BD, starts_F1[:-1], mode="sum", per_sample_weights=weights_P)

        grad_W_dec = per_latent(z_P, grad_x_hat_BD)
        grad_W_enc = per_latent(grad_pre_P, x_BD).T
        zeros_F = torch.zeros_like(threshold)
        grad_b_enc = zeros_F.index_add(0, latent_P, grad_pre_P)
        grad_threshold = zeros_F.index_add(0, latent_P, grad_threshold_P)
        if penalty.step_on == "post":  # an inactive latent's output, 0, lies in the window where |θ| < ε/2
            zero_near_F = (threshold / width).abs() < 0.5
            grad_threshold -= (1 / width) * grad_step * (B - counts_F) * zero_near_F
        grad_b_dec = grad_x_hat_BD.sum(0)
        if b_enc.numel() == 0:  # eq. 1: the bias is also subtracted from the input
            grad_b_dec = grad_b_dec - W_enc @ grad_b_enc
            grad_W_enc = grad_W_enc - torch.outer(b_dec, grad_b_enc)
            grad_b_enc = None
        fired_F = counts_F > 0
        ctx.grads = (grad_W_enc, grad_b_enc, grad_W_dec, grad_b_dec, grad_threshold)
        ctx.mark_non_differentiable(reconstruction, l0, fired_F)
        return total, reconstruction, l0, fired_F

    @staticmethod
    def backward(ctx, grad_total: Tensor, *_):  # type: ignore[override]
        grads = [None if grad is None else grad * grad_total for grad in ctx.grads]
        return None, None, None, *grads, None


def _starts(index_P: Tensor, n: int) -> Tensor:
    """Row pointers [n + 1]: where the pairs of each of `n` rows would start if sorted by `index_P`."""
    starts = torch.zeros(n + 1, dtype=torch.long)
    torch.cumsum(torch.bincount(index_P, minlength=n), 0, out=starts[1:])
    return starts
