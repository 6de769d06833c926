"""The JumpReLU SAE: parameters, encode, decode, and how it is saved.

Shape suffixes: B tokens in a batch, D d_in, F latents.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

Bias = Literal["separate", "shared"]


def zeros(rows: int, columns: int) -> Tensor:
    """Float32; on a CPU in numpy's memory, which has pages of 2 MB: faster where rows are picked anywhere."""
    if torch.get_default_device().type != "cpu":
        return torch.zeros(rows, columns)
    memory = np.empty((rows, columns), np.float32)
    memory.fill(0)  # np.zeros would take ordinary pages
    return torch.from_numpy(memory)


class JumpReLUSAE(nn.Module):
    """A JumpReLU SAE over raw activations.

    `bias="shared"` is the paper's eq. 1-2, `bias="separate"` what `dictionary_learning` trains:

        shared:    z = JumpReLU_θ((x − b_dec) W_enc)      x̂ = z W_dec + b_dec
        separate:  z = JumpReLU_θ(x W_enc + b_enc)        x̂ = z W_dec + b_dec

    W_enc [D, F], W_dec [F, D], b_enc [F] (None when shared), b_dec [D], threshold θ [F], all float32. Inside, inputs
    are divided by the scalar buffer `scale` (normalised units: mean squared norm 1); `encode`, `decode` and `forward`
    take and give raw units, except that z is in normalised units until `folded()`.
    """

    scale: Tensor

    def __init__(self, d_in: int, d_sae: int, *, bias: Bias = "separate", scale: float = 1.0) -> None:
        super().__init__()
        self.d_in, self.d_sae, self.bias = d_in, d_sae, bias
        # Stored row by row per latent, as W_dec is: gradients from active pairs come that way, and so does Adam's pass.
        self.W_enc = nn.Parameter(zeros(d_sae, d_in).T)
        self.W_dec = nn.Parameter(zeros(d_sae, d_in))
        self.b_enc = nn.Parameter(torch.zeros(d_sae)) if bias == "separate" else None
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.threshold = nn.Parameter(torch.full((d_sae,), 0.001))
        self.register_buffer("scale", torch.tensor(float(scale)))

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """What JumpReLU sees [B, F], from x [B, D] in normalised units."""
        if self.b_enc is None:
            return (x_BD - self.b_dec) @ self.W_enc
        return x_BD @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """Latents [..., F] of raw activations [..., D]."""
        pre = self.pre_activations(x.to(self.W_enc.dtype) / self.scale)
        return pre * (pre > self.threshold)

    def decode(self, z: Tensor) -> Tensor:
        """Raw activations [..., D] of latents [..., F]."""
        return (z @ self.W_dec + self.b_dec) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of raw activations [..., D]."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def folded(self) -> JumpReLUSAE:
        """A copy for the outside: scale 1, separate bias, decoder rows of unit norm; the same reconstructions.

        With s the scale and r_i the norm of decoder row i: W_enc · r, b_enc · s·r, θ · s·r, W_dec / r, b_dec · s.
        A row of norm 0 (which no training leaves) stays 0.
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

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Decoder rows to unit norm (as `dictionary_learning`: divided by norm + machine epsilon)."""
        self.W_dec /= self.W_dec.norm(dim=1, keepdim=True) + torch.finfo(self.W_dec.dtype).eps
