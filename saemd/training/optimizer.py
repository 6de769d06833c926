"""Adam without a first moment, with what surrounds it in a step: projection, clipping, unit rows, θ > 0.

The order is `dictionary_learning`'s: the gradient of W_dec is made orthogonal to its rows, the norm of the whole
gradient is clipped, Adam (β₁ = 0) steps, and W_dec's rows go back to unit norm. On a CPU one pass over the rows does
it (`kernels.adam_rows`); `plain` is its reference, and runs on a GPU.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saemd.sae import JumpReLUSAE
from saemd.training.config import RecipeConfig


class SAEAdam(torch.optim.Optimizer):
    """One instance trains one SAE. `gradient_norm` is the last step's, before clipping, after the projection.

    State: `square`, the second moment, and `step` of each parameter. `fused=None` takes the fast path where it can.
    """

    def __init__(self, sae: JumpReLUSAE, recipe: RecipeConfig, fused: bool | None = None) -> None:
        others = [p for name, p in sae.named_parameters() if name != "threshold"]
        groups = [{"params": others}, {"params": [sae.threshold], "lr": recipe.lr * recipe.threshold_lr}]
        super().__init__(groups, {"lr": recipe.lr})
        self.sae, self.recipe, self.fused = sae, recipe, fused
        self.gradient_norm = 0.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
        fused = self.sae.W_dec.device.type == "cpu" if self.fused is None else self.fused
        self._fused() if fused else self._plain()
        if self.recipe.positive_threshold:
            self.sae.threshold.clamp_(min=1e-6)
        return loss

    def _plain(self) -> None:
        W_dec, grad = self.sae.W_dec, self.sae.W_dec.grad
        assert grad is not None
        rows = W_dec / (W_dec.norm(dim=1, keepdim=True) + 1e-6)
        grad -= (grad * rows).sum(1, keepdim=True) * rows
        norm = torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self.recipe.grad_clip_norm)
        self.gradient_norm = norm.item()
        for group in self.param_groups:
            for parameter in group["params"]:
                self._update(parameter, parameter.grad, group["lr"])
        self.sae.normalise_decoder()

    def _update(self, parameter: Tensor, grad: Tensor, lr: float) -> None:
        """θ ← θ − lr · g / (√(v/(1 − β₂ᵗ)) + ε), v ← β₂ v + (1 − β₂) g²."""
        beta2, state = self.recipe.adam_beta2, self.state[parameter]
        square = state["square"]
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = square.sqrt().div_(math.sqrt(1 - beta2 ** state["step"])).add_(self.recipe.adam_eps)
        parameter.addcdiv_(grad, root, value=-lr)

    def _fused(self) -> None:
        """Matrices by kernels over their rows; vectors, too short to be worth a second thread, as in `_plain`."""
        from saemd.sae import kernels

        r, sae = self.recipe, self.sae
        lrs = {id(p): group["lr"] for group in self.param_groups for p in group["params"]}
        matrices = [(_rows(p), _rows(p.grad), _rows(self.state[p]["square"]), p) for p in (sae.W_enc, sae.W_dec)]
        vectors = [p for p in sae.parameters() if p.dim() == 1]
        alongs, total = [], sum(p.grad.double().pow(2).sum().item() for p in vectors if p.grad is not None)
        for W, grad, _, p in matrices:
            along, square = np.empty(len(W), np.float32), np.empty(len(W), np.float32)
            kernels.gradient_norms(W, grad, p is sae.W_dec, along, square)
            alongs.append(along)
            total += square.sum(dtype=np.float64)
        self.gradient_norm = math.sqrt(total)
        clip = min(1.0, r.grad_clip_norm / (self.gradient_norm + 1e-6))
        for p in vectors:
            if p.grad is not None:
                self._update(p, p.grad * clip, lrs[id(p)])
        f = np.float32  # what the kernels were compiled for
        for (W, grad, square, p), along in zip(matrices, alongs, strict=True):
            correction = 1 / math.sqrt(1 - r.adam_beta2 ** self.state[p]["step"])
            kernels.adam_rows(
                W, grad, square, f(lrs[id(p)]), f(clip), f(r.adam_beta2), f(r.adam_eps), f(correction),
                p is sae.W_dec, along,
            )  # fmt: skip


def _rows(tensor: Tensor | None) -> np.ndarray:
    """The memory of a matrix, of its gradient or state, as rows [F, D]: W_enc [D, F] is stored latent by latent."""
    assert tensor is not None
    tensor = tensor.detach()
    return tensor.numpy() if tensor.is_contiguous() else tensor.T.numpy()
