"""The TopK SAE (Gao et al., arXiv 2406.04093): each token keeps its k = `l0` largest latents; AuxK revives dead ones.

Shape suffixes: B tokens in a batch, D d_in, F latents.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from saemd.errors import bad_value
from saemd.sae.base import SAE, Loss, Progress, SAEConfig, each_token


@dataclass
class TopKConfig(SAEConfig):
    """As published, and as `dictionary_learning` 0.1.0 trains it."""

    name: str = "topk"
    auxk_coefficient: float = 1 / 32  # of the loss by which dead latents learn (2406.04093, A.2); 0: without it
    dead_after_tokens: int = 10_000_000  # a latent that was silent for so long is dead

    def check(self, steps: int, decay_start: int) -> None:
        if not 0 <= self.auxk_coefficient < math.inf:
            raise bad_value("sae.auxk_coefficient", self.auxk_coefficient, "use 0 or more (1/32 is usual)")
        if self.dead_after_tokens < 1:
            raise bad_value("sae.dead_after_tokens", self.dead_after_tokens, "use at least 1")


class TopKSAE(SAE):
    """z = TopK_k(ReLU((x − b_dec) W_enc + b_enc)), x̂ = z W_dec + b_dec, with k = `target_l0`."""

    Config = TopKConfig
    saelens, dictionary_learning = "topk", "AutoEncoderTopK"
    adam_beta1 = 0.9
    config: TopKConfig
    tokens_silent: Tensor

    def add_own(self) -> None:
        self.register_buffer("tokens_silent", torch.zeros(self.d_sae, dtype=torch.long))  # since last active

    def activations(self, x_BD: Tensor) -> Tensor:
        """What the k largest are taken from [B, F]."""
        assert self.b_enc is not None
        return torch.relu((x_BD - each_token(self.b_dec)) @ self.W_enc + each_token(self.b_enc))

    def sparsify(self, acts_BF: Tensor, k: Any = None) -> Tensor:
        """The k largest of each token, by default `target_l0`; the others 0."""
        return largest(acts_BF, self.target_l0 if k is None else k)

    def k_at(self, at: Progress) -> Any:
        """The whole number of latents that each token keeps in a step; of a stack a tensor [S]."""
        k = self.target_at(at)
        return k.round() if isinstance(k, Tensor) else round(k)

    def latents(self, x_BD: Tensor) -> Tensor:
        return self.sparsify(self.activations(x_BD))

    def objective(self, x_BD: Tensor, at: Progress) -> Loss:
        """Σ w · ‖error‖² over `errors`, mean over the batch, + AuxK's share."""
        acts_BF = self.activations(x_BD)
        z_BF = self.sparsify(acts_BF, self.k_at(at))
        active_BF = z_BF.detach() > 0
        fired_F = self.batch.any(active_BF.any(-2))
        self.observe(z_BF.detach(), fired_F, at)
        weights, errors = zip(*self.errors(x_BD, z_BF), strict=True)
        squares = [error_BD.pow(2).sum(-1).mean(-1) for error_BD in errors]
        total = torch.stack([weight * square for weight, square in zip(weights, squares, strict=True)]).sum(0)
        total = total + self.config.auxk_coefficient * self.auxk(errors[-1].detach(), acts_BF, at)
        l0 = self.batch.mean(active_BF.sum(-1).float().mean(-1))
        return Loss(total, squares[-1].detach(), l0, fired_F)

    def errors(self, x_BD: Tensor, z_BF: Tensor) -> list[tuple[float, Tensor]]:
        """The errors [B, D] that the loss sums, each with its weight; the last is that of the whole SAE."""
        return [(1.0, x_BD - self.reconstruct(z_BF))]

    def observe(self, z_BF: Tensor, fired_F: Tensor, at: Progress) -> None:
        """Count how long each latent has been silent."""
        self.tokens_silent += self.batch.size(z_BF.shape[-2])
        self.tokens_silent.masked_fill_(fired_F, 0)

    def auxk(self, error_BD: Tensor, acts_BF: Tensor, at: Progress) -> Tensor:
        """Share of the error's variance that its reconstruction by d_in/2 dead latents leaves (2406.04093, A.2)."""
        none = error_BD.new_zeros(error_BD.shape[:-2])
        tokens = (at.step + 1) * self.batch.size(error_BD.shape[-2])
        if self.config.auxk_coefficient == 0 or tokens < self.config.dead_after_tokens:
            return none  # too early for a dead latent; asking `tokens_silent` would wait for the GPU
        dead_F = self.tokens_silent >= self.config.dead_after_tokens
        n_dead = dead_F.sum(-1)
        if (most := int(n_dead.max())) == 0:
            return none
        dead_BF = torch.where(each_token(dead_F), acts_BF, -torch.inf)
        z_BF = largest(dead_BF, n_dead.clamp(max=self.d_in // 2), most=min(self.d_in // 2, most))
        left = self.batch.mean((error_BD - z_BF @ self.W_dec).pow(2).sum(-1).mean(-1))
        mean_1D = self.batch.mean(error_BD.mean(-2, keepdim=True))
        variance = self.batch.mean((error_BD - mean_1D).pow(2).sum(-1).mean(-1))
        return torch.where(n_dead > 0, (left / variance).nan_to_num(0.0), none)

    @torch.no_grad()
    def fill_defaults(self, sample: Callable[[], Tensor]) -> None:
        """b_dec is the geometric median of activations (2406.04093, A.1)."""
        self.b_dec.copy_(geometric_median(sample()))

    @torch.no_grad()
    def folded(self) -> SAE:
        """With s the scale: b_enc · s and b_dec · s. The decoder's rows have unit norm from training."""
        copy = TopKSAE(self.d_in, self.d_sae, target_l0=self.target_l0)
        copy.load_state_dict({**self.state_dict(), "scale": torch.tensor(1.0)})
        assert copy.b_enc is not None
        copy.b_enc.mul_(self.scale)
        copy.b_dec.mul_(self.scale)
        return copy

    def saelens_config(self) -> dict[str, Any]:
        return {"k": int(self.target_l0), "rescale_acts_by_decoder_norm": False, "apply_b_dec_to_input": True}

    @classmethod
    def from_saelens(cls, d_in: int, d_sae: int, config: dict[str, Any]) -> Self:
        return cls(d_in, d_sae, target_l0=config["k"])


def largest(values_BF: Tensor, k: float | Tensor, most: int | None = None) -> Tensor:
    """The k largest along the last axis; the others 0. A stack's k is a tensor [S], and `most` the largest of them."""
    if not isinstance(k, Tensor) or k.dim() == 0:
        top = values_BF.topk(int(k) if most is None else most, dim=-1, sorted=False)
        return torch.zeros_like(values_BF).scatter(-1, top.indices, top.values)
    top = values_BF.topk(int(k.max()) if most is None else most, dim=-1)
    is_kept = torch.arange(top.values.shape[-1], device=k.device) < k.reshape(-1, *[1] * (values_BF.dim() - 1))
    return torch.zeros_like(values_BF).scatter(-1, top.indices, torch.where(is_kept, top.values, 0.0))


def geometric_median(x_ND: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
    """The point with the smallest sum of distances to the rows [D], by Weiszfeld's iteration."""
    median_D = x_ND.mean(0)
    for _ in range(iterations):
        weight_N = 1 / (x_ND - median_D).norm(dim=1)
        before, median_D = median_D, (weight_N / weight_N.sum()) @ x_ND
        if (median_D - before).norm() < tolerance:
            break
    return median_D
