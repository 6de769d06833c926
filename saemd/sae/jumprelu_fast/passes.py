"""What a step of `gpu.HalfLoss` does between its matrix products: each function is one pass over its tensors.

Plain functions of tensors, compiled on CUDA (`fused`). Not hand-written Triton: a compiler kept by others, of which
the byte counts in experiments/throughput are asked, against kernels that would have to be tuned for each GPU.

Shape suffixes: B tokens in a batch, D d_in, F latents. A stack's tensors have one axis more in front, so axes count
from the last one, and what is a number for one SAE has the shape [S].
"""

import torch
from torch import Tensor

from saemd.sae.base import each_token
from saemd.sae.fused import fused


@fused
def activate(product_BF: Tensor, b_enc_F: Tensor, threshold_F: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(z [B, F] rounded to `dtype`, on how many tokens each latent is active [F]); pre-activations stay float32."""
    pre_BF = product_BF + each_token(b_enc_F)
    on_BF = pre_BF > each_token(threshold_F)
    return torch.where(on_BF, pre_BF, 0.0).to(dtype), on_BF.sum(-2, dtype=torch.int32)


@fused
def errors(
    product_BD: Tensor, b_dec_D: Tensor, x_BD: Tensor, all_F: Tensor, threshold_F: Tensor, target_l0: Tensor,
    coefficient: Tensor, step_on_pre: bool, dtype: torch.dtype, devices: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradient by x̂, 2e/B, rounded to `dtype`; its sum over tokens; total, reconstruction, L0 and ∂total/∂step.

    `all_F`: on how many tokens of the batch each latent is active; x is a part of it where there are several `devices`.
    """
    B = x_BD.shape[-2]
    B_all = B * devices
    e_BD = product_BD + each_token(b_dec_D) - x_BD
    grad_BD = e_BD * (2 / B)
    on = all_F.sum(-1)
    if not step_on_pre:  # on JumpReLU's output, where an inactive latent's 0 counts as active once θ < 0
        on = on + ((B_all - all_F) * (threshold_F < 0)).sum(-1)
    reconstruction, l0 = e_BD.pow(2).sum((-2, -1)) / B, on / B_all
    excess = l0 / target_l0 - 1
    total = reconstruction + coefficient * excess.pow(2)
    grad_step = coefficient * 2 * excess / (target_l0 * B)
    return grad_BD.to(dtype), grad_BD.sum(-2), total, reconstruction, l0, grad_step


@fused
def activate_backward(
    product_BF: Tensor, b_enc_F: Tensor, threshold_F: Tensor, grad_z_BF: Tensor, active_F: Tensor, grad_step: Tensor,
    bandwidth: float, step_on_pre: bool, trains_encoder: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the pre-activations [B, F] (in grad_z's dtype), b_enc [F] and θ [F]: `jumprelu`'s, together."""
    pre_BF, grad_BF, threshold_1F = product_BF + each_token(b_enc_F), grad_z_BF.float(), each_token(threshold_F)
    on_BF = pre_BF > threshold_1F
    near_BF = ((pre_BF - threshold_1F) / bandwidth).abs() < 0.5
    grad_step_11 = grad_step.unsqueeze(-1).unsqueeze(-1)
    step_BF = grad_step_11 if step_on_pre else torch.where(on_BF, grad_step_11, 0.0)
    grad_threshold_F = -torch.where(near_BF, threshold_1F * grad_BF + step_BF, 0.0).sum(-2) / bandwidth
    if not step_on_pre:  # an inactive latent's output, 0, lies in the window where |θ| < ε/2
        zero_near_F = (threshold_F / bandwidth).abs() < 0.5
        n_inactive_F = pre_BF.shape[-2] - active_F
        grad_threshold_F = grad_threshold_F - grad_step.unsqueeze(-1) / bandwidth * n_inactive_F * zero_near_F
    grad_pre_BF = torch.where(on_BF, grad_BF, 0.0)
    if trains_encoder:
        grad_pre_BF = grad_pre_BF + torch.where(near_BF, grad_step_11, 0.0) / bandwidth
    return grad_pre_BF.to(grad_z_BF.dtype), grad_pre_BF.sum(-2), grad_threshold_F
