"""SAEs on a planted dictionary: their start, their training, their error."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from saemd.sae import ARCHITECTURES, SAE, ModelShape, Progress, Sources, build
from saemd.sae.starts.base import SHARED_SEED, DrawnConfig
from saemd.sae.twins import fast_twin
from saemd.stability.planted import Planted
from saemd.training.config import RecipeConfig
from saemd.training.optimizer import SAEAdam
from saemd.training.schedules import schedule

HELD_OUT, SAMPLE = 10**6, 10**6 + 1  # seeds that no run trains with
CPU = torch.device("cpu")


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


def start(world: World, architecture: str, d_sae: int, l0: float, encoder: str, seed: int) -> SAE:
    """An SAE at a uniform random start."""

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
    return build(DrawnConfig("uniform", "uniform", encoder), config, sources, target_l0=l0, scale=1.0)


def train(
    sae: SAE, world: World, recipe: RecipeConfig, *, batch: int, steps: int, seed: int, kept: Collection[int] = ()
) -> dict[int, SAE]:
    """Train `sae`, with data of `seed`; copies of it at the steps of `kept`."""
    plan, generator = schedule(recipe, steps), torch.Generator().manual_seed(seed)
    optimizer = SAEAdam(sae, recipe, plan, sae.W_dec.detach().clone())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, plan.lr)
    objective, copies = fast_twin(sae, CPU) or type(sae).objective, {}
    for step in range(steps + 1):
        if step in kept:
            copies[step] = sae.folded()
        if step == steps:
            break
        at: Progress = plan.at(step)
        loss = objective(sae, world.sample(batch, generator), at)
        optimizer.zero_grad()
        loss.backward(sae)
        optimizer.step()
        scheduler.step()
    return copies
