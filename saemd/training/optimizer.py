"""Adam, with what surrounds it in an SAE's step: projection, clipping, unit rows.

The order is `dictionary_learning`'s: the gradient of W_dec is made orthogonal to its rows, the norm of the whole
gradient is clipped, Adam steps, W_dec's rows go back to unit norm, and the architecture does what it has to do after a
step. The recipe may add constraints (`constraints`): W_enc decays just before Adam's update, as in AdamW (Loshchilov
and Hutter, arXiv 1711.05101); after it, W_dec's rows go back to within a cosine of their start; a frozen W_dec or
W_enc takes no part in the step, nor its gradient in the norm.

Two passes over the rows do it, one for the norm and one for the rest: on a GPU compiled ones (`optimizer_passes`),
which never wait for it, on a CPU, where Adam has no first moment (β₁ = 0), numba's (`optimizer_kernels`). `_plain` is
the reference of both.
"""

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
from saemd.training.constraints import constraints_of, held, unit_starts
from saemd.training.schedules import ENDLESS, Schedule, schedule


class SAEAdam(torch.optim.Optimizer):
    """One instance trains one SAE. `gradient_norm` is the last step's, before clipping, after the projection.

    `plan` is the run's schedule; without one, no step is in the recipe's last fractions of a run. `start_dec` is W_dec
    at step 0, by default as it is now. Learning rates come from the parameter groups.

    State of each parameter: `step`; `square`, the second moment; with β₁ > 0 `mean`, the first. `recipe.fast=false`
    takes the plain path.
    """

    def __init__(
        self, sae: SAE, recipe: RecipeConfig, plan: Schedule | None = None, start_dec: Tensor | None = None
    ) -> None:
        super().__init__(sae.parameter_groups(recipe.lr), {"lr": recipe.lr})
        self.sae, self.recipe = sae, recipe
        self.beta1 = sae.adam_beta1 if recipe.adam_beta1 is None else recipe.adam_beta1
        self.plan = schedule(recipe, ENDLESS) if plan is None else plan
        start = sae.W_dec if start_dec is None else start_dec
        self._start_rows = None if recipe.decoder_cosine == -1 else unit_starts(start)
        self._norm: float | Tensor = 0.0

    @property
    def gradient_norm(self) -> float:
        """Waits for a GPU to have computed it: to be read where it is logged."""
        return float(self._norm)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = closure() if closure else None  # Lightning's, which turns gradients on itself
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
        trained = [parameter for parameter in self.sae.parameters() if self._moves(parameter)]
        self._norm = torch.nn.utils.clip_grad_norm_(trained, self.recipe.grad_clip_norm)
        self._decay_encoder()
        for group in self.param_groups:
            for parameter in group["params"]:
                if self._moves(parameter):
                    self._update(parameter, parameter.grad, group["lr"])
        if self._moves(W_dec):
            self.sae.normalise_decoder()
            self._hold_decoder()

    def _moves(self, parameter: Tensor) -> bool:
        """Whether this step updates the parameter."""
        if parameter is self.sae.W_dec:
            return self.plan.decoder_moves(self._step())
        return parameter is not self.sae.W_enc or self.plan.encoder_moves(self._step())

    def _step(self) -> int:
        """The number of the step that is being made, from 0."""
        return self.state[self.sae.W_dec]["step"] - 1

    def _lr_of(self, parameter: Tensor) -> float:
        return next(group["lr"] for group in self.param_groups if any(p is parameter for p in group["params"]))

    def _decay_encoder(self) -> None:
        W_enc = self.sae.W_enc
        if (decay := self.plan.encoder_decay(self._step())) and self._moves(W_enc):
            W_enc.mul_(1 - decay * self._lr_of(W_enc))

    def _hold_decoder(self) -> None:
        if self._start_rows is not None:
            W_dec = self.sae.W_dec
            W_dec.copy_(held(W_dec, self._start_rows, self.recipe.decoder_cosine))

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
        constraints = constraints_of(self.plan, count - 1, self._lr_of(self.sae.W_enc), self._start_rows, W_dec)
        self._norm = passes.step_(
            self.sae, self.param_groups, self.state, lrs, correction, r.grad_clip_norm, self.beta1, r.adam_beta2,
            r.adam_eps, constraints,
        )  # fmt: skip

    def _by_kernels(self) -> None:
        """Matrices by kernels over their rows; vectors, too short to be worth a second thread, as in `_plain`."""
        from saemd.training import optimizer_kernels as kernels

        r, sae = self.recipe, self.sae
        trained = [parameter for parameter in (sae.W_enc, sae.W_dec) if self._moves(parameter)]
        lrs = {id(p): group["lr"] for group in self.param_groups for p in group["params"]}
        matrices = [(_rows(p), _rows(p.grad), _rows(self.state[p]["square"]), p) for p in trained]
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
        self._decay_encoder()
        f = np.float32  # what the kernels were compiled for
        for (W, grad, square, p), along in zip(matrices, alongs, strict=True):
            correction = 1 / math.sqrt(1 - r.adam_beta2 ** self.state[p]["step"])
            kernels.adam_rows(
                W, grad, square, f(lrs[id(p)]), f(clip), f(r.adam_beta2), f(r.adam_eps), f(correction),
                p is sae.W_dec, along,
            )  # fmt: skip
        if self._moves(sae.W_dec):
            self._hold_decoder()


def _zeros_like(parameter: Tensor) -> Tensor:
    """Laid out as it is, on its device; a matrix on the CPU in memory as `saemd.sae.base.zeros` takes."""
    if parameter.dim() != 2 or parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        return torch.zeros_like(parameter)
    return zeros(*parameter.shape) if parameter.is_contiguous() else zeros(*parameter.T.shape).T


def _rows(tensor: Tensor | None) -> np.ndarray:
    """The memory of a matrix, of its gradient or state, as rows [F, D]."""
    assert tensor is not None
    return rows(tensor).numpy()
