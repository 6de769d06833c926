"""A planted dictionary: synthetic activations of known features, where *recovered* and *shared* can be told apart.

Two SAEs may share a latent because both found a feature, or because both kept a piece of a start. On real activations
nobody knows which. Here the features are known. Also SAEs on it: their start, their training, their error. Suffixes:
N features, B tokens, D d_in, F latents.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saemd.sae import ARCHITECTURES, SAE, ModelShape, Progress, Sources, build
from saemd.sae.starts.base import SHARED_SEED, DrawnConfig
from saemd.sae.twins import fast_twin
from saemd.stability.comparison import Comparison
from saemd.training.config import RecipeConfig
from saemd.training.optimizer import SAEAdam
from saemd.training.resampling import is_due, resample_silent
from saemd.training.schedules import schedule

HELD_OUT, SAMPLE = 10**6, 10**6 + 1  # seeds that no run trains with
CPU = torch.device("cpu")


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


class World:
    """Activations of a planted dictionary, divided by the root of their mean squared norm."""

    def __init__(self, planted: Planted) -> None:
        self.planted, self.scale = planted, 1.0
        self.scale = self.draw(20_000, SAMPLE).pow(2).sum(1).mean().sqrt().item()
        self.held_out = self.draw(8192, HELD_OUT)

    def draw(self, tokens: int, seed: int) -> Tensor:
        return self.sample(tokens, torch.Generator().manual_seed(seed))

    def sample(self, tokens: int, generator: torch.Generator) -> Tensor:
        return self.planted.sample(tokens, generator) / self.scale

    def measure(self, sae: SAE) -> dict[str, float]:
        """FVU, L0 and the share of dead latents on held-out activations."""
        with torch.no_grad():
            z_BF, x_BD = sae.encode(self.held_out), self.held_out
            error, variance = ((y - x_BD).pow(2).sum().item() for y in (sae.decode(z_BF), x_BD.mean(0)))
            active_BF = z_BF > 0
        return {
            "fvu": error / variance,
            "l0": active_BF.float().sum(1).mean().item(),
            "dead": 1 - active_BF.any(0).float().mean().item(),
        }


def start(
    world: World, architecture: str, d_sae: int, l0: float, encoder: str, seed: int, init: str = "uniform"
) -> SAE:
    """An SAE at a random start of its own: `init` is uniform or random_mirrored."""

    def absent(*_: Any) -> Any:
        raise AssertionError("a planted dictionary has no language model")

    d_in = world.planted.features.shape[1]
    sources = Sources(
        d_in, d_sae, ModelShape(d_in, d_sae // 2, False, 1, 0, 10**9),
        sample=lambda: world.draw(4096, SAMPLE), data_points=absent, mlp_decoder=absent, attention_output=absent,
        token_embeddings=absent, saved_sae=absent, scale=1.0,
        generator=torch.Generator().manual_seed(seed), shared_generator=torch.Generator().manual_seed(SHARED_SEED),
    )  # fmt: skip
    config = ARCHITECTURES[architecture].Config(name=architecture)
    return build(DrawnConfig(init, init, encoder), config, sources, target_l0=l0, scale=1.0)


def train(
    sae: SAE, world: World, recipe: RecipeConfig, *, batch: int, steps: int, seed: int, kept: Collection[int] = ()
) -> dict[int, SAE]:
    """Train `sae`, with data of `seed`; copies of it at the steps of `kept`."""
    plan, generator = schedule(recipe, steps), torch.Generator().manual_seed(seed)
    optimizer = SAEAdam(sae, recipe, plan, sae.W_dec.detach().clone())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.lr)
    objective, copies = fast_twin(sae, CPU) or type(sae).objective, {}
    last_fired = torch.zeros(sae.d_sae, dtype=torch.long)
    for step in range(steps + 1):
        if step in kept:
            copies[step] = sae.folded()
        if step == steps:
            break
        at: Progress = plan.at(step)
        loss = objective(sae, x_BD := world.sample(batch, generator), at)
        last_fired.masked_fill_(loss.fired, step)
        optimizer.zero_grad()
        loss.backward(sae)
        optimizer.step()
        scheduler.step()
        if is_due(plan, step + 1):
            resample_silent(sae, optimizer, last_fired, x_BD, step + 1, seed)
    return copies
