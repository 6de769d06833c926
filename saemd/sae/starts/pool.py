"""A start from everything that writes into the residual stream: the term z that equation 6 of the paper leaves out."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saemd.errors import bad_value
from saemd.sae.starts.base import InitConfig, ModelShape, Sources, Start, initializer, unit_rows

PARTS = ("mlp", "attention", "embeddings")
_NEAR = 256  # directions with an activation's largest projections: it is decomposed into some of these
_BLOCK = 128  # activations at a time, which take _BLOCK · (P + _NEAR · D) floats


@dataclass
class PoolConfig(InitConfig):
    """Directions of the layers up to the trained one, chosen by what activations use."""

    encoder: str = "dual"
    parts: list[str] = field(default_factory=lambda: [*PARTS])  # whose directions may be chosen
    picks: int = 8  # directions that each of d_sae sampled activations is decomposed into


def check_pool(config: PoolConfig, model: ModelShape, d_sae: int) -> None:
    if not config.parts or len({*config.parts}) < len(config.parts) or not {*config.parts} <= {*PARTS}:
        raise bad_value("init.parts", config.parts, f"name each once; known are {', '.join(PARTS)}")
    if config.picks < 1:
        raise bad_value("init.picks", config.picks, "use at least 1")
    if config.parts == ["mlp"]:
        _check_size(2 * (model.layer + 1) * model.mlp_width, d_sae)


def _check_size(available: int, d_sae: int) -> None:
    if d_sae > available:
        remedy = f"the pool has {available} directions, opposites included; add init.parts, or use fewer latents"
        raise bad_value("d_sae", d_sae, remedy)


@initializer(PoolConfig, check_pool)
def pool(config: PoolConfig, sources: Sources) -> Start:
    """The d_sae directions that activations use most, of all that write into the residual stream up to the layer.

    The pool has the MLP's decoder and attention's output directions of every layer up to the trained one, times the
    weights of their post-norms, and the token embeddings; each direction also with its opposite. `usage` says how
    much activations use each. Nothing is drawn: seeds that train on the same documents share the start.
    """
    rows_PD = torch.cat([*_directions(config, sources)])
    norms_P = rows_PD.norm(dim=1)
    rows_PD = rows_PD[norms_P > 0] / norms_P[norms_P > 0, None]
    _check_size(2 * len(rows_PD), sources.d_sae)
    x_ND = sources.sample()
    energy, moment = usage(x_ND[: sources.d_sae] - x_ND.mean(0), rows_PD, config.picks)
    by_moment = moment.argsort(descending=True, stable=True)
    chosen = by_moment[energy[by_moment].argsort(descending=True, stable=True)][: sources.d_sae]
    signs = 1 - 2 * (chosen >= len(rows_PD)).float()
    return Start(unit_rows(rows_PD[chosen % len(rows_PD)] * signs[:, None]))


def usage(x_ND: Tensor, rows_PD: Tensor, picks: int) -> tuple[Tensor, Tensor]:
    """How much activations use each direction (entries 0 to P − 1) and its opposite (P to 2P − 1), by two measures.

    The first one is the energy that matching pursuit gives it: `picks` times, each activation's residual r loses its
    largest projection (uᵀr) u on a direction, and the signed direction gains (uᵀr)². An activation is decomposed into
    the 256 directions with its largest projections alone. The second measure, which ranks the directions that no
    activation picked, is the second moment, the sum of max(uᵀx, 0)². Rows must have norm 1. The cost is about 2 · N · P
    · D floating point operations.
    """
    P = len(rows_PD)
    energy, moment = torch.zeros(2 * P), torch.zeros(2 * P)
    for r_BD in x_ND.split(_BLOCK):
        along_BP = r_BD @ rows_PD.T
        positive_P = along_BP.relu().square().sum(0)
        moment += torch.cat([positive_P, along_BP.square().sum(0) - positive_P])
        near_BK = along_BP.abs_().topk(min(_NEAR, P)).indices
        near_BKD = rows_PD[near_BK]
        for _ in range(picks):
            along_BK = torch.einsum("bkd,bd->bk", near_BKD, r_BD)
            place_B1 = along_BK.abs().argmax(1, keepdim=True)
            value_B1, index_B1 = along_BK.gather(1, place_B1), near_BK.gather(1, place_B1)
            energy.index_add_(0, (index_B1 + P * (value_B1 < 0)).squeeze(1), value_B1.square().squeeze(1))
            r_BD = r_BD - value_B1 * rows_PD[index_B1.squeeze(1)]
    return energy, moment


def _directions(config: PoolConfig, sources: Sources) -> Iterator[Tensor]:
    """The pool's directions as rows [·, D], as written."""
    for layer in range(sources.model.layer + 1):
        if "mlp" in config.parts:
            U, post_norm_D = sources.mlp_decoder(layer)
            yield (U if post_norm_D is None else U * post_norm_D[:, None]).T
        if "attention" in config.parts:
            yield sources.attention_output(layer).T
    if "embeddings" in config.parts:
        yield sources.token_embeddings()
