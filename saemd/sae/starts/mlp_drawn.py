"""Starts that are drawn from an MLP: with its covariance alone, or some of its neurons and of its neighbours'."""

from dataclasses import dataclass, field

import torch

from saemd.errors import bad_value
from saemd.sae.starts.base import DrawnConfig, ModelShape, Sources, Start, check_even, initializer, mirrored, unit_rows
from saemd.sae.starts.neurons import MirrorConfig, MLPConfig, check_neurons, check_offset, check_postnorm, neurons


@dataclass
class GaussianConfig(MirrorConfig, DrawnConfig):
    """Rows with the covariance of an MLP's decoder U."""

    mirrored: bool = True  # [R, −R] as `mirror`; false: all rows are drawn


def check_gaussian(config: GaussianConfig, model: ModelShape, d_sae: int) -> None:
    check_neurons(config, model, d_sae)
    if config.mirrored:
        check_even(config, d_sae)


@initializer(GaussianConfig, check_gaussian)
def gaussian(config: GaussianConfig, sources: Sources) -> Start:
    """Rows drawn from N(0, U Uᵀ/m), as unit rows: the second moment of `mirror`, without its directions.

    A row is U ε/√m with ε ~ N(0, 1)^m. With `mirrored` half of the rows are drawn and W_dec = [R, −R].
    """
    U_mD = neurons(config, config.offset, sources)
    drawn = sources.d_sae // 2 if config.mirrored else sources.d_sae
    noise = torch.randn(drawn, len(U_mD), generator=sources.draw(config))
    rows = unit_rows(noise @ U_mD / len(U_mD) ** 0.5)
    return Start(mirrored(rows) if config.mirrored else rows)


@dataclass
class SubsetConfig(MLPConfig, DrawnConfig):
    """Some neurons of several layers, mirrored."""

    offsets: list[int] = field(default_factory=lambda: [-1, 0])  # layers from the trained one to the MLPs'


def check_subset(config: SubsetConfig, model: ModelShape, d_sae: int) -> None:
    check_postnorm(config, model)
    check_even(config, d_sae)
    if not config.offsets or len({*config.offsets}) < len(config.offsets):
        raise bad_value("init.offsets", config.offsets, "name at least one layer, and each once, such as [-1,0]")
    for offset in config.offsets:
        check_offset("init.offsets", offset, model)
    available = len(config.offsets) * model.mlp_width
    if d_sae // 2 > available:
        remedy = f"these layers have {available} neurons, d_sae={d_sae} takes {d_sae // 2}; name more layers"
        raise bad_value("init.offsets", config.offsets, remedy)


@initializer(SubsetConfig, check_subset)
def mirror_subset(config: SubsetConfig, sources: Sources) -> Start:
    """[R, −R], R a random subset of the neurons of several layers' MLPs; each seed draws its own.

    Of k layers with 2m latents, two seeds share about one in k of their neurons, at other indices.
    """
    pool = torch.cat([neurons(config, offset, sources) for offset in config.offsets])
    chosen = torch.randperm(len(pool), generator=sources.draw(config))[: sources.d_sae // 2]
    return Start(mirrored(unit_rows(pool[chosen])))
