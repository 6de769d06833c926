"""The loss of `JumpReLUSAE.objective` and its gradients in closed form on a GPU: bfloat16 factors, float32 sums.

Of one SAE, or of a stack, whose five products are batched.

Rounded to bfloat16 are the factors of the five matrix products (x, W_enc, W_dec, z, the error, the gradient by the
pre-activations), ∂z, and the gradients of W_enc and W_dec. Float32 are the sums inside every product, the
pre-activations and what they are compared with, every figure, the biases, θ, the parameters and the optimizer's state:
in bfloat16, values near 0.2 are as far apart as the straight-through window is wide.

The rounded factors move a pre-activation by about 0.2 % of its spread over the latents (3e-5 at the paper's size,
where ε is 1e-3), so that pairs closer than that to their threshold may change sides. The matrices' gradients are
rounded once, after their sum, as autocast does: with Adam's β₁ = 0 an update moves by at most 0.2 % of itself, and
three passes over 170 MB are saved.

experiments/throughput counts the bytes and FLOPs of each pass. Adam writes the matrices' bfloat16 copies in its own
pass. Memory, bytes for each of 2·F·D = 85 M: parameters, second moment and starting weights 4, copies 2, gradients 2,
and 2 for the last step's, held until then; 1.5 GB, and 10 bytes · B·F, 0.4 GB, beside them.
"""

import torch
from torch import Tensor

from saemd.sae.base import Loss, Progress, each_token
from saemd.sae.fused import scalar
from saemd.sae.jumprelu import JumpReLUSAE
from saemd.sae.jumprelu_fast import passes


class HalfLoss:
    """The twin of `JumpReLUSAE.objective` on a GPU. `dtype` is that of the factors; in float32 nothing is rounded.

    It runs anywhere; off CUDA it multiplies the same rounded factors in float32.
    """

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        self.dtype = dtype

    @torch.no_grad()
    def __call__(self, sae: JumpReLUSAE, x_BD: Tensor, at: Progress) -> Loss:
        penalty = sae.penalty(at)
        dtype, step_on_pre = self.dtype, penalty.step_on == "pre"
        seen_BD = (x_BD if sae.b_enc is not None else x_BD - each_token(sae.b_dec)).to(dtype)
        b_enc_F = torch.zeros_like(sae.threshold) if sae.b_enc is None else sae.b_enc
        W_enc_FD, W_dec_FD = (sae.rounded.get(name, getattr(sae, name), dtype) for name in ("W_enc", "W_dec"))
        product_BF = multiply(seen_BD, W_enc_FD.mT, torch.float32)
        z_BF, active_F = passes.activate(product_BF, b_enc_F, sae.threshold, dtype)
        all_F = sae.batch.sum(active_F)
        grad_x_hat_BD, grad_b_dec_D, total, reconstruction, l0, grad_step = passes.errors(
            multiply(z_BF, W_dec_FD, torch.float32), sae.b_dec, x_BD, all_F, sae.threshold,
            scalar(penalty.target_l0, x_BD), scalar(penalty.coefficient, x_BD), step_on_pre, dtype, sae.batch.devices,
        )  # fmt: skip
        grads = {"W_dec": multiply(z_BF.mT, grad_x_hat_BD, gradient_dtype(dtype)), "b_dec": grad_b_dec_D}
        grad_z_BF = multiply(grad_x_hat_BD, W_dec_FD.mT, dtype)
        grad_pre_BF, grad_b_enc_F, grads["threshold"] = passes.activate_backward(
            product_BF, b_enc_F, sae.threshold, grad_z_BF, active_F, grad_step, penalty.bandwidth, step_on_pre,
            penalty.trains_encoder,
        )  # fmt: skip
        grads["W_enc"] = multiply(grad_pre_BF.mT, seen_BD, gradient_dtype(dtype)).mT
        if sae.b_enc is None:  # the bias is also subtracted from the input
            grads["b_dec"] -= (sae.W_enc @ grad_b_enc_F.unsqueeze(-1)).squeeze(-1)
        else:
            grads["b_enc"] = grad_b_enc_F
        return Loss(total, reconstruction, l0, all_F > 0, grads)


def multiply(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b with float32 sums, in `dtype`: the factors' own or float32."""
    if a.device.type == "cuda":
        if a.dtype == dtype:
            return a @ b
        return (torch.mm if a.dim() == 2 else torch.bmm)(a, b, out_dtype=dtype)
    return (a.float() @ b.float()).to(dtype)


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the matrices' gradients: the factors', where this torch lets a gradient have another than its parameter."""
    return dtype if hasattr(torch.Tensor, "grad_dtype") else torch.float32
