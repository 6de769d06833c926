"""The Gated SAE (Rajamanoharan et al., arXiv 2404.16014): one path decides which latents are active, one how strongly.

Shape suffixes: B tokens in a batch, D d_in, F latents.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saemd.sae.base import SAE, Loss, Progress, each_token
from saemd.sae.warmup import PenaltyConfig, check_seek, seek_


@dataclass
class GatedConfig(PenaltyConfig):
    """`sparsity_coefficient` is the L1 term's, at first: with `seek_l0` it follows the L0 that training shows."""

    name: str = "gated"
    sparsity_coefficient: float = 0.1
    sparsity_warmup_steps: int = 2000
    # The paper's loss has no target L0. Each step multiplies the coefficient by exp(seek_l0 · (L0/target − 1)), the
    # exponent at most ±seek_l0; 0: the coefficient stays (dictionary_learning), and l0 only names the run.
    seek_l0: float = 0.02

    def check(self, steps: int, decay_start: int) -> None:
        super().check(steps, decay_start)
        check_seek(self.seek_l0)


class GatedSAE(SAE):
    """With p = (x − b_dec) W_enc: z = 1[p + b_gate > 0] · ReLU(exp(r_mag) · p + b_mag), x̂ = z W_dec + b_dec."""

    Config = GatedConfig
    saelens, dictionary_learning = "gated", "GatedAutoEncoder"
    config: GatedConfig
    seeking: Tensor

    def add_own(self) -> None:
        self.b_enc = None
        self.b_gate, self.b_mag, self.r_mag = (nn.Parameter(torch.zeros(self.d_sae)) for _ in range(3))
        self.register_buffer("seeking", torch.tensor(1.0))  # what the coefficient has been multiplied by

    def paths(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The gate before its step function, and the latents [B, F]."""
        p_BF = (x_BD - each_token(self.b_dec)) @ self.W_enc
        gate_BF = p_BF + each_token(self.b_gate)
        magnitude_BF = torch.relu(each_token(self.r_mag.exp()) * p_BF + each_token(self.b_mag))
        return gate_BF, (gate_BF > 0) * magnitude_BF

    def latents(self, x_BD: Tensor) -> Tensor:
        return self.paths(x_BD)[1]

    def objective(self, x_BD: Tensor, at: Progress) -> Loss:
        """‖x − x̂‖² + λ·‖ReLU(gate)‖₁ + ‖x − x̂_gate‖², mean over the batch (eq. 8); the last with a frozen decoder."""
        gate_BF, z_BF = self.paths(x_BD)
        open_BF = torch.relu(gate_BF)
        reconstruction = (x_BD - self.reconstruct(z_BF)).pow(2).sum(-1).mean(-1)
        by_gate_BD = open_BF @ self.W_dec.detach() + each_token(self.b_dec.detach())
        auxiliary = (x_BD - by_gate_BD).pow(2).sum(-1).mean(-1)
        active_BF = z_BF.detach() > 0
        l0 = self.batch.mean(active_BF.sum(-1).float().mean(-1))
        total = reconstruction + self.coefficient(at) * open_BF.sum(-1).mean(-1) + auxiliary
        if self.config.seek_l0:
            seek_(self.seeking, self.config.seek_l0, l0, self.target_at(at))
        return Loss(total, reconstruction.detach(), l0, self.batch.any(active_BF.any(-2)))

    def coefficient(self, at: Progress) -> Tensor:
        return self.config.coefficient(at) * self.seeking.detach().clone()

    def figures(self, at: Progress) -> dict[str, Tensor]:
        return {"sparsity_coefficient": self.coefficient(at)}

    @torch.no_grad()
    def folded(self) -> SAE:
        """With s the scale: b_gate · s, b_mag · s, b_dec · s. The decoder's rows have unit norm from training."""
        copy = GatedSAE(self.d_in, self.d_sae)
        copy.load_state_dict({**self.state_dict(), "scale": torch.tensor(1.0)})
        for bias in (copy.b_gate, copy.b_mag, copy.b_dec):
            bias.mul_(self.scale)
        return copy

    def saelens_config(self) -> dict[str, Any]:
        return {"apply_b_dec_to_input": True}
