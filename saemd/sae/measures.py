"""What is measured on held-out activations: every figure is pooled over all tokens, never averaged over batches.

Shape suffixes: B tokens in a batch, D d_in, F latents.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from saemd.sae.base import SAE
from saemd.sae.fused import fused


@dataclass(frozen=True)
class HeldOut:
    """Definitions, with e = x̂ − x, x in normalised units, sums over all held-out tokens:

    fvu                 Σ‖e‖² / Σ‖x − x̄‖²  (fraction of variance unexplained)
    explained_variance  1 − Σ‖e − ē‖² / Σ‖x − x̄‖²: a constant offset of the reconstruction is not counted
    l0                  mean number of active latents of a token
    loss                mean of ‖e‖² over tokens: the reconstruction term alone
    alive [F]           the latent was active on at least one of the `tokens` tokens
    fire_rate [F]       share of the tokens on which it was active
    ablation_fvu [F]    what is added to fvu where the latent is set to 0: Σ (‖e − z_f d_f‖² − ‖e‖²) / Σ‖x − x̄‖²
    """

    tokens: int
    fvu: float
    explained_variance: float
    l0: float
    loss: float
    dead_fraction: float
    alive: Tensor
    fire_rate: Tensor
    ablation_fvu: Tensor


class Pooled:
    """Sums in float64 over batches; `result()` gives `HeldOut`."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        self.tokens = 0
        self.sums_D = torch.zeros(2, d_in, dtype=torch.float64)  # Σ x and Σ e
        self.squares = torch.zeros(2, dtype=torch.float64)  # Σ‖x‖² and Σ‖e‖²
        self.fired_F = torch.zeros(d_sae, dtype=torch.int64)
        self.ablation_F = torch.zeros(d_sae, dtype=torch.float64)  # Σ (‖e − z_f d_f‖² − ‖e‖²)

    @torch.no_grad()
    def update(self, sae: SAE, x_BD: Tensor) -> None:
        """Add a batch [B, D] in the SAE's normalised units."""
        z_BF = sae.latents(x_BD)
        e_BD = sae.reconstruct(z_BF) - x_BD
        self.tokens += len(x_BD)
        self.sums_D += torch.stack([x_BD.double().sum(0), e_BD.double().sum(0)]).cpu()
        self.squares += torch.stack([x_BD.double().pow(2).sum(), e_BD.double().pow(2).sum()]).cpu()
        self.fired_F += (z_BF != 0).sum(0).cpu()
        added_BF = (e_BD @ sae.W_dec.T).mul_(-2).addcmul_(z_BF, sae.W_dec.pow(2).sum(1)).mul_(z_BF)
        self.ablation_F += added_BF.sum(0, dtype=torch.float64).cpu()

    def result(self) -> HeldOut:
        assert self.tokens > 0, "no held-out batch was seen"
        around_mean = self.squares - self.sums_D.pow(2).sum(1) / self.tokens  # Σ‖x − x̄‖² and Σ‖e − ē‖²
        variance = around_mean[0].item()
        return HeldOut(
            tokens=self.tokens,
            fvu=self.squares[1].item() / variance,
            explained_variance=1 - around_mean[1].item() / variance,
            l0=self.fired_F.sum().item() / self.tokens,
            loss=self.squares[1].item() / self.tokens,
            dead_fraction=(self.fired_F == 0).double().mean().item(),
            alive=self.fired_F > 0,
            fire_rate=(self.fired_F / self.tokens).float(),
            ablation_fvu=(self.ablation_F / variance).float(),
        )


def row_cosines(a_ND: Tensor, b_ND: Tensor, rows: int = 1024) -> Tensor:
    """Cosine of each row of a with that of b [N], or [S, N] of [S, N, D]; a zero row has cosine 0.

    On a CPU it goes block by block, so that temporaries stay small; on a GPU through one compiled pass.
    """
    if a_ND.device.type == "cuda":
        return _cosines(a_ND, b_ND)
    blocks = zip(a_ND.split(rows), b_ND.split(rows), strict=True)
    return torch.cat([cosine_similarity(a, b, dim=-1) for a, b in blocks])


@fused
def _cosines(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    return cosine_similarity(a_ND, b_ND, dim=-1)
