"""Adam, with what surrounds it in an SAE's step: projection, clipping, unit rows.

The order is `dictionary_learning`'s: the gradient of W_dec is made orthogonal to its rows, the norm of the whole
gradient is clipped, Adam steps, W_dec's rows go back to unit norm, and the architecture does what it has to do after a
step. Two passes over the rows do it, one for the norm and one for the rest: on a GPU compiled ones
(`optimizer_passes`), which never wait for it, on a CPU, where Adam has no first moment (β₁ = 0), numba's
(`optimizer_kernels`). `_plain` is the reference of both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saemd.sae import SAE
from saemd.sae.base import zeros
from saemd.sae.fused import scalar
from saemd.sae.rounded import rows
from saemd.sae.twins import multiplies_bfloat16
from saemd.training.config import RecipeConfig


class SAEAdam(torch.optim.Optimizer):
    """One instance trains one SAE. `gradient_norm` is the last step's, before clipping, after the projection.

    State of each parameter: `step`; `square`, the second moment; with β₁ > 0 `mean`, the first. `recipe.fast=false`
    takes the plain path.
    """

    def __init__(self, sae: SAE, recipe: RecipeConfig) -> None:
        super().__init__(sae.parameter_groups(recipe.lr), {"lr": recipe.lr})
        self.sae, self.recipe = sae, recipe
        self.beta1 = sae.adam_beta1 if recipe.adam_beta1 is None else recipe.adam_beta1
        self._norm: float | Tensor = 0.0

    @property
    def gradient_norm(self) -> float:
        """Waits for a GPU to have computed it: to be read where it is logged."""
        return float(self._norm)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._count()
        device = self.sae.W_dec.device.type
        if self.beta1 == 0 and self.recipe.fast and device == "cpu":
            self._by_kernels()
        elif self.recipe.fast and multiplies_bfloat16(device):
            self._by_passes()
        else:
            self._plain()
        self.sae.after_step()
        return loss

    def plain_step(self) -> None:
        """The step by which every other is checked."""
        self._count()
        self._plain()
        self.sae.after_step()

    def _count(self) -> None:
        for name, _ in self.sae.named_parameters():
            self.state_of(name)["step"] += 1

    def state_of(self, name: str) -> dict[str, Any]:
        """The state of a parameter of the SAE, made where there is none yet."""
        parameter = self.sae.get_parameter(name)
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["square"] = _zeros_like(parameter)
            if self.beta1:
                state["mean"] = _zeros_like(parameter)
        return state

    def _plain(self) -> None:
        W_dec, grad = self.sae.W_dec, self.sae.W_dec.grad
        assert grad is not None
        rows = W_dec / (W_dec.norm(dim=1, keepdim=True) + 1e-6)
        grad -= (grad * rows).sum(1, keepdim=True) * rows
        self._norm = torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self.recipe.grad_clip_norm)
        for group in self.param_groups:
            for parameter in group["params"]:
                self._update(parameter, parameter.grad, group["lr"])
        self.sae.normalise_decoder()

    def _update(self, parameter: Tensor, grad: Tensor, lr: float) -> None:
        """w ← w − lr · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε), m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g²."""
        beta1, beta2, state = self.beta1, self.recipe.adam_beta2, self.state[parameter]
        square = state["square"]
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = square.sqrt().div_(math.sqrt(1 - beta2 ** state["step"])).add_(self.recipe.adam_eps)
        if beta1:
            grad = state["mean"].mul_(beta1).add_(grad, alpha=1 - beta1)
            lr /= 1 - beta1 ** state["step"]
        parameter.addcdiv_(grad, root, value=-lr)

    def _by_passes(self) -> None:
        from saemd.training import optimizer_passes as passes

        r, W_dec = self.recipe, self.sae.W_dec
        count = self.state[W_dec]["step"]
        lrs = [scalar(group["lr"] / (1 - self.beta1**count), W_dec) for group in self.param_groups]
        correction = scalar(1 / math.sqrt(1 - r.adam_beta2**count), W_dec)
        self._norm = passes.step_(
            self.sae, self.param_groups, self.state, lrs, correction, r.grad_clip_norm, self.beta1, r.adam_beta2,
            r.adam_eps,
        )  # fmt: skip

    def _by_kernels(self) -> None:
        """Matrices by kernels over their rows; vectors, too short to be worth a second thread, as in `_plain`."""
        from saemd.training import optimizer_kernels as kernels

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
        self._norm = math.sqrt(total)
        clip = min(1.0, r.grad_clip_norm / (self._norm + 1e-6))
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


def _zeros_like(parameter: Tensor) -> Tensor:
    """Laid out as it is, on its device; a matrix on the CPU in memory as `saemd.sae.base.zeros` takes."""
    if parameter.dim() != 2 or parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        return torch.zeros_like(parameter)
    return zeros(*parameter.shape) if parameter.is_contiguous() else zeros(*parameter.T.shape).T


def _rows(tensor: Tensor | None) -> np.ndarray:
    """The memory of a matrix, of its gradient or state, as rows [F, D]."""
    assert tensor is not None
    return rows(tensor).numpy()
