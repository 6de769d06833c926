"""A planted dictionary: synthetic activations of known features, where *recovered* and *shared* can be told apart.

Two SAEs may share a latent because both found a feature, or because both kept a piece of a start. On real activations
nobody knows which. Here the features are known. Suffixes: N features, B tokens, D d_in, F latents.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saemd.stability.comparison import Comparison


@dataclass(frozen=True)
class Planted:
    """Unit features with their rates; feature 2k + 1 is more frequent where feature 2k is active."""

    features: Tensor  # [N, D]
    rates: Tensor  # [N], share of tokens, before correlation
    correlation: float  # probability that an active feature 2k switches feature 2k + 1 on

    def sample(self, tokens: int, generator: torch.Generator) -> Tensor:
        """Activations [B, D]: a sum of the active features, each times a magnitude drawn from 0.5 to 1.5."""
        n = len(self.rates)
        active_BN = torch.rand(tokens, n, generator=generator) < self.rates
        parents_BN = active_BN[:, 0 : n - n % 2 : 2]
        active_BN[:, 1::2] |= parents_BN & (torch.rand(parents_BN.shape, generator=generator) < self.correlation)
        magnitudes_BN = active_BN * (0.5 + torch.rand(tokens, n, generator=generator))
        return magnitudes_BN @ self.features


def plant(
    n: int,
    d_in: int,
    generator: torch.Generator,
    *,
    active: float = 8.0,
    exponent: float = 1.0,
    correlation: float = 0.3,
) -> Planted:
    """`n` random unit features with Zipf rates, rate of feature i ∝ (i + 1)^-exponent, at most 1/2.

    `active` is the mean number of active features of a token before the cap and the correlation.
    """
    features_ND = torch.nn.functional.normalize(torch.randn(n, d_in, generator=generator), dim=1)
    weights_N = torch.arange(1, n + 1, dtype=torch.float32) ** -exponent
    order = torch.randperm(n, generator=generator)  # so that correlated features differ in rate
    rates_N = (active * weights_N / weights_N.sum()).clamp(max=0.5)[order]
    return Planted(features_ND, rates_N, correlation)


def recovered(W_dec_FD: Tensor, planted: Planted, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Which latents point along a feature (bool [F]), and which features a latent points along (bool [N]).

    By signed cosine above `threshold`; several latents may point along one feature.
    """
    cosines_FN = torch.nn.functional.normalize(W_dec_FD.detach(), dim=1) @ planted.features.T
    above_FN: np.ndarray = (cosines_FN > threshold).numpy()
    return np.any(above_FN, axis=1), np.any(above_FN, axis=0)


def told_apart(comparison: Comparison, recovered_a_F: np.ndarray, threshold: float) -> dict[str, float]:
    """Shares of the latents of a: `both` shared and recovered, `shared_alone`, `recovered_alone`, and `neither`.

    `shared_alone` is agreement on what is no feature, as on a common start.
    """
    shared_F = comparison.shared(threshold)
    return {
        "both": float((shared_F & recovered_a_F).mean()),
        "shared_alone": float((shared_F & ~recovered_a_F).mean()),
        "recovered_alone": float((~shared_F & recovered_a_F).mean()),
        "neither": float((~shared_F & ~recovered_a_F).mean()),
    }
