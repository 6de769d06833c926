"""What the tests of starts give to a start: a small language model's weights and activations, in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saemd.sae import INITS, SAE, JumpReLUConfig, ModelShape, Sources, build, load_sae
from tests.sae.test_jumprelu import batch

D, M = 12, 30
LAYER, LAYERS, TOKENS = 2, 4, 400


def mlp(layer: int | None) -> Tensor:
    """U [D, M] of a layer."""
    return torch.randn(D, M, generator=torch.Generator().manual_seed(3 + (LAYER if layer is None else layer)))


MADE = sorted(INITS.keys() - {"saved"})  # which needs an SAE of before


def sources(
    d_sae: int = 2 * M, post_norm: Tensor | None = None, seed: int = 0, sample: Callable[[], Tensor] | None = None
) -> Sources:
    x_ND = batch(TOKENS, D) / D**0.5

    def data_points(n: int, draw: int) -> Tensor:
        chosen = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(draw))[:n]
        return x_ND[chosen] - x_ND.mean(0)

    return Sources(
        D,
        d_sae,
        ModelShape(D, M, post_norm is not None, LAYERS, LAYER, TOKENS),
        sample=sample or (lambda: x_ND),
        data_points=data_points,
        mlp_decoder=lambda layer: (mlp(layer), post_norm),
        attention_output=lambda layer: mlp(layer)[:, : M // 2] + 1,
        token_embeddings=lambda: torch.cat([mlp(9).T, torch.zeros(1, D)]),
        saved_sae=load_sae,
        scale=2.0,
        generator=torch.Generator().manual_seed(seed),
        shared_generator=torch.Generator().manual_seed(0),
    )


def start(
    name: str = "mirror", encoder: str = "tied", drawn: Sources | None = None, theta: float = 0.001, **keys
) -> SAE:
    config = INITS[name].Config(name=name, label=name, encoder=encoder, **keys)
    return build(config, JumpReLUConfig(threshold=theta), drawn or sources(), target_l0=4, scale=1.0)


def rows(name: str, seed: int = 0, d_sae: int = 2 * M, **keys) -> Tensor:
    """W_dec [F, D] of a start under a seed."""
    return start(name, drawn=sources(d_sae, seed=seed), **keys).W_dec.detach()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Of each row of a with the same row of b; both have unit rows."""
    return (a * b).sum(1)
