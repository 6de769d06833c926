"""The JumpReLU SAE (the paper's): encode, decode, and the loss that draws L0 to its target.

Its fast twins, one for a CPU and one for a GPU, are in `jumprelu_fast`. Shape suffixes: B tokens in a batch, D d_in,
F latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saemd.errors import bad_value
from saemd.sae.base import SAE, Loss, Progress, each_token
from saemd.sae.warmup import PenaltyConfig, check_seek, seek_


@dataclass
class JumpReLUConfig(PenaltyConfig):
    """Table 1 of the paper, and what its code (`dictionary_learning` 0.1.0) adds to it."""

    name: str = "jumprelu"
    threshold: float = 0.001  # θ of every latent at step 0 (dictionary_learning; Gemma Scope, appendix)
    threshold_lr: float = 1.0  # θ's learning rate as a multiple of recipe.lr
    positive_threshold: bool = True  # keep θ > 0; false: θ is free, as in the reference
    bandwidth: float = 0.001  # ε of the straight-through window
    step_on: str = "pre"  # L0's step function looks at pre-activations; "post": at JumpReLU's output (reference)
    bias: str = "separate"  # or "shared": one bias, subtracted and added (paper, eq. 1-2)
    step_gradient: str = "threshold"  # what the sparsity term trains: θ alone, or "all": the encoder too
    # Options of Anthropic's January 2025 update (transformer-circuits.pub/2025/january-update).
    sparsity: str = "l0"  # the sparsity term: λ·(L0/target − 1)²; or "tanh": λ·Σ tanh(c·√d_in·z), which trains all
    tanh_scale: float = 4.0  # c; √d_in as there inputs have a mean squared norm of d_in, here of 1
    # How fast tanh's λ follows L0 to its target, as in sae=gated; 0: λ is sae.sparsity_coefficient, and l0 only names
    # the run. At 0.02, L0 fell far below its target in 500 steps (docs/recipes.md).
    seek_l0: float = 0.0
    # λ of Σ ReLU(θ − pre-activation) over dead latents, which brings them back (there 3e-6); 0: without it
    pre_activation_coefficient: float = 0.0
    dead_after_tokens: int = 10_000_000  # a latent silent for so long is dead; 0: all count as dead, as there

    def check(self, steps: int, decay_start: int) -> None:
        super().check(steps, decay_start)
        for key in ("bandwidth", "threshold_lr"):
            if not 0 < getattr(self, key) < math.inf:
                raise bad_value(f"sae.{key}", getattr(self, key), "use a positive number")
        if not math.isfinite(self.threshold):
            raise bad_value("sae.threshold", self.threshold, "use a finite number (0.001 is usual)")
        if self.step_on not in ("pre", "post"):
            raise bad_value("sae.step_on", self.step_on, "known are pre, post")
        if self.bias not in ("separate", "shared"):
            raise bad_value("sae.bias", self.bias, "known are separate, shared")
        if self.step_gradient not in ("threshold", "all"):
            raise bad_value("sae.step_gradient", self.step_gradient, "known are threshold, all")
        if self.sparsity not in ("l0", "tanh"):
            raise bad_value("sae.sparsity", self.sparsity, "known are l0, tanh")
        if self.sparsity == "tanh" and self.step_gradient == "all":
            remedy = "sae.sparsity=tanh has no step, and its gradient reaches the encoder anyway; leave it out"
            raise bad_value("sae.step_gradient", "all", remedy)
        if self.step_on == "post" and self.step_gradient == "all":
            remedy = "with sae.step_on=post the sparsity term trains θ alone; use sae.step_on=pre"
            raise bad_value("sae.step_gradient", "all", remedy)
        if not 0 < self.tanh_scale < math.inf:
            raise bad_value("sae.tanh_scale", self.tanh_scale, "use a positive number (4 is usual)")
        check_seek(self.seek_l0)
        if not 0 <= self.pre_activation_coefficient < math.inf:
            remedy = "use 0 (without it) or more (3e-6 is usual)"
            raise bad_value("sae.pre_activation_coefficient", self.pre_activation_coefficient, remedy)
        if self.dead_after_tokens < 0:
            raise bad_value("sae.dead_after_tokens", self.dead_after_tokens, "use 0 (all latents) or more")

    def beyond_twins(self) -> str | None:
        """The setting that only the plain loss computes."""
        if self.sparsity == "tanh":
            return "sae.sparsity=tanh"
        coefficient = self.pre_activation_coefficient
        return f"sae.pre_activation_coefficient={coefficient}" if coefficient else None


@dataclass(frozen=True)
class Penalty:
    """The sparsity term λ·(L0/target − 1)², and what its straight-through step looks at."""

    target_l0: Any  # of a stack: a tensor [S]
    coefficient: Any  # λ at this step, after its warm-up
    bandwidth: float = 0.001  # ε
    step_on: str = "pre"  # "pre": pre-activations; "post": JumpReLU's output, as dictionary_learning does
    trains_encoder: bool = False  # whether the step's gradient reaches pre-activations


class JumpReLUSAE(SAE):
    """`bias="shared"` is the paper's eq. 1-2, `bias="separate"` what `dictionary_learning` trains:

        shared:    z = JumpReLU_θ((x − b_dec) W_enc)      x̂ = z W_dec + b_dec
        separate:  z = JumpReLU_θ(x W_enc + b_enc)        x̂ = z W_dec + b_dec

    Beside the parameters of every SAE there is the threshold θ [F]; b_enc is None where the bias is shared.
    """

    Config = JumpReLUConfig
    saelens, dictionary_learning = "jumprelu", "JumpReluAutoEncoder"
    config: JumpReLUConfig
    seeking: Tensor  # with sparsity=tanh
    tokens_silent: Tensor  # with pre_activation_coefficient

    def add_own(self) -> None:
        if self.config.bias == "shared":
            self.b_enc = None
        self.threshold = nn.Parameter(torch.full((self.d_sae,), float(self.config.threshold)))
        if self.config.sparsity == "tanh":
            self.register_buffer("seeking", torch.tensor(1.0))  # what the coefficient has been multiplied by
        if self.config.pre_activation_coefficient:
            self.register_buffer("tokens_silent", torch.zeros(self.d_sae, dtype=torch.long))  # since last active

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """What JumpReLU sees [B, F]."""
        if self.b_enc is None:
            return (x_BD - each_token(self.b_dec)) @ self.W_enc
        return x_BD @ self.W_enc + each_token(self.b_enc)

    def latents(self, x_BD: Tensor) -> Tensor:
        pre_BF = self.pre_activations(x_BD)
        return pre_BF * (pre_BF > each_token(self.threshold))

    def penalty(self, at: Progress) -> Penalty:
        c = self.config
        return Penalty(self.target_at(at), c.coefficient(at), c.bandwidth, c.step_on, c.step_gradient == "all")

    def objective(self, x_BD: Tensor, at: Progress) -> Loss:
        """‖x − x̂‖² + the sparsity term + that of dead latents, mean over the batch."""
        penalty, threshold = self.penalty(at), each_token(self.threshold)
        pre_BF = self.pre_activations(x_BD)
        z_BF = JumpReLU.apply(pre_BF, threshold, penalty.bandwidth)
        seen_BF = pre_BF if penalty.step_on == "pre" else z_BF
        step_BF = Step.apply(seen_BF, threshold, penalty.bandwidth, penalty.trains_encoder)
        x_hat_BD = self.reconstruct(z_BF)
        reconstruction = (x_BD - x_hat_BD).pow(2).sum(-1).mean(-1)
        l0 = self.batch.mean(step_BF.sum(-1).mean(-1))
        if self.config.sparsity == "tanh":
            total = reconstruction + self._tanh_term(z_BF, l0.detach(), penalty)
        else:
            total = reconstruction + penalty.coefficient * (l0 / penalty.target_l0 - 1).pow(2)
        fired_F = self.batch.any((z_BF.detach() != 0).any(-2))
        if self.config.pre_activation_coefficient:
            total = total + self._dead_term(pre_BF, fired_F)
        return Loss(total, reconstruction.detach(), l0.detach(), fired_F)

    def _tanh_term(self, z_BF: Tensor, l0: Tensor, penalty: Penalty) -> Tensor:
        """λ·Σ tanh(c·√d_in·z·‖row of W_dec‖), mean over tokens; the rows' norm is 1. Then λ follows L0."""
        coefficient, scale = penalty.coefficient * self.seeking.clone(), self.config.tanh_scale * math.sqrt(self.d_in)
        if self.config.seek_l0:
            seek_(self.seeking, self.config.seek_l0, l0, penalty.target_l0)
        return coefficient * torch.tanh(scale * z_BF).sum(-1).mean(-1)

    def _dead_term(self, pre_BF: Tensor, fired_F: Tensor) -> Tensor:
        """λ·Σ ReLU(θ − pre-activation) over dead latents, mean over tokens: it draws both to each other."""
        self.tokens_silent += self.batch.size(pre_BF.shape[-2])
        self.tokens_silent.masked_fill_(fired_F, 0)
        is_dead_F = self.tokens_silent >= self.config.dead_after_tokens
        below_BF = torch.relu(each_token(self.threshold) - pre_BF) * each_token(is_dead_F)
        return self.config.pre_activation_coefficient * below_BF.sum(-1).mean(-1)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        others = [parameter for name, parameter in self.named_parameters() if name != "threshold"]
        return [{"params": others}, {"params": [self.threshold], "lr": lr * self.config.threshold_lr}]

    @torch.no_grad()
    def after_step(self) -> None:
        if self.config.positive_threshold:
            self.threshold.clamp_(min=1e-6)

    def figures(self, at: Progress) -> dict[str, Tensor]:
        quantiles = torch.quantile(
            self.threshold, torch.tensor([0.05, 0.5, 0.95], device=self.threshold.device), dim=-1
        )
        named = {f"threshold_q{percent}": value for percent, value in zip(("05", "50", "95"), quantiles, strict=True)}
        coefficient = torch.full((), self.penalty(at).coefficient, dtype=torch.float64, device=quantiles.device)
        if self.config.sparsity == "tanh":
            coefficient = coefficient * self.seeking
        return {**named, "sparsity_coefficient": coefficient}

    @torch.no_grad()
    def folded(self) -> JumpReLUSAE:
        """With s the scale and r_i the norm of decoder row i: W_enc · r, b_enc · s·r, θ · s·r, W_dec / r, b_dec · s.

        The copy has a separate bias. A decoder row of norm 0 (which no training leaves) stays 0.
        """
        norm_F = self.W_dec.norm(dim=1)
        norm_F = torch.where(norm_F > 0, norm_F, torch.ones_like(norm_F))
        b_enc = self.b_enc if self.b_enc is not None else -(self.b_dec @ self.W_enc)
        copy = JumpReLUSAE(self.d_in, self.d_sae)
        copy.W_enc.copy_(self.W_enc * norm_F)
        copy.W_dec.copy_(self.W_dec / norm_F[:, None])
        assert copy.b_enc is not None
        copy.b_enc.copy_(b_enc * norm_F * self.scale)
        copy.threshold.copy_(self.threshold * norm_F * self.scale)
        copy.b_dec.copy_(self.b_dec * self.scale)
        return copy

    def remarks(self) -> list[str]:
        below = int((self.threshold < 0).sum())
        return [f"{below:,} latents have θ < 0; what they give below 0, others clip"] if below else []


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
    def forward(ctx, pre_BF: Tensor, threshold_1F: Tensor, bandwidth: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(pre_BF, threshold_1F)
        ctx.bandwidth = bandwidth
        return pre_BF * (pre_BF > threshold_1F)

    @staticmethod
    def backward(ctx, grad_BF: Tensor):  # type: ignore[override]
        pre_BF, threshold_1F = ctx.saved_tensors
        near_BF = rectangle((pre_BF - threshold_1F) / ctx.bandwidth)
        grad_threshold_1F = (-(threshold_1F / ctx.bandwidth) * near_BF * grad_BF).sum(-2, keepdim=True)
        return grad_BF * (pre_BF > threshold_1F), grad_threshold_1F, None


class Step(torch.autograd.Function):
    """1[s > θ], whose sum over latents is L0.

    Straight-through gradients (arXiv 2407.14435, eq. 12): ∂/∂s = 0, ∂/∂θ = −(1/ε) · K((s − θ)/ε). Here s should be the
    pre-activation. `dictionary_learning` passes what JumpReLU returned (its issue 55), so that the half of the window
    below θ never counts, and every zero counts once θ < ε/2. With `reaches_s`, ∂/∂s = (1/ε) · K((s − θ)/ε), as the
    step depends on s − θ alone: sparsity then trains the encoder too.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, s_BF: Tensor, threshold_1F: Tensor, bandwidth: float, reaches_s: bool = False
    ) -> Tensor:
        ctx.save_for_backward(s_BF, threshold_1F)
        ctx.bandwidth, ctx.reaches_s = bandwidth, reaches_s
        return (s_BF > threshold_1F).to(s_BF.dtype)

    @staticmethod
    def backward(ctx, grad_BF: Tensor):  # type: ignore[override]
        s_BF, threshold_1F = ctx.saved_tensors
        near_BF = rectangle((s_BF - threshold_1F) / ctx.bandwidth)
        slope_BF = -(1.0 / ctx.bandwidth) * near_BF * grad_BF
        return -slope_BF if ctx.reaches_s else None, slope_BF.sum(-2, keepdim=True), None, None
