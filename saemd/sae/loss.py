"""The loss: reconstruction plus a term that draws L0 to its target.

`dense_loss` is the plain reference of `fast` (CPU) and `half` (GPU).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saemd.sae.jumprelu import JumpReLU, Step
from saemd.sae.model import JumpReLUSAE


@dataclass(frozen=True)
class Penalty:
    """The sparsity term λ·(L0/target − 1)², and what its straight-through step looks at."""

    target_l0: float
    coefficient: float  # λ at this step, after its warm-up
    bandwidth: float = 0.001  # ε
    step_on: str = "pre"  # "pre": pre-activations; "post": JumpReLU's output, as dictionary_learning does


@dataclass(frozen=True)
class Loss:
    """One batch: `total` carries the gradient, unless `grads` holds it; the rest is for logging.

    `fired` [F]: latents active on any token. `grads`: of every parameter, by name, where they were computed with it.
    """

    total: Tensor
    reconstruction: Tensor  # mean over tokens of ‖x − x̂‖²
    l0: Tensor  # mean over tokens of the number of active latents
    fired: Tensor
    grads: dict[str, Tensor] | None = None

    def backward(self, sae: JumpReLUSAE) -> None:
        """Put the gradients into the parameters' `grad`: those of `grads` themselves, without a copy."""
        if self.grads is None:
            self.total.backward()
            return
        for name, parameter in sae.named_parameters():
            if self.grads[name].dtype != parameter.dtype:
                parameter.grad_dtype = self.grads[name].dtype
            parameter.grad = self.grads[name]


def dense_loss(sae: JumpReLUSAE, x_BD: Tensor, penalty: Penalty) -> Loss:
    """‖x − x̂‖² + λ·(L0/target − 1)², mean over the batch; x in the SAE's own (normalised) units, float32."""
    pre_BF = sae.pre_activations(x_BD)
    z_BF = JumpReLU.apply(pre_BF, sae.threshold, penalty.bandwidth)
    step_BF = Step.apply(pre_BF if penalty.step_on == "pre" else z_BF, sae.threshold, penalty.bandwidth)
    x_hat_BD = z_BF @ sae.W_dec + sae.b_dec
    reconstruction = (x_BD - x_hat_BD).pow(2).sum(-1).mean()
    l0 = step_BF.sum(-1).mean()
    total = reconstruction + penalty.coefficient * (l0 / penalty.target_l0 - 1).pow(2)
    with torch.no_grad():
        fired = (z_BF != 0).any(0)
    return Loss(total, reconstruction.detach(), l0.detach(), fired)
