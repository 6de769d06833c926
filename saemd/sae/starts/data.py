"""A start that is made of activations."""

from dataclasses import dataclass

import torch

from saemd.errors import bad_value
from saemd.sae.starts.base import DrawnConfig, ModelShape, Sources, Start, initializer, unit_rows


@dataclass
class DataPointsConfig(DrawnConfig):
    """Rows are activations."""

    encoder: str = "gain"


def check_data_points(config: DataPointsConfig, model: ModelShape, d_sae: int) -> None:
    if d_sae > model.tokens:
        raise bad_value("activations.tokens", model.tokens, f"init={config.name} takes d_sae={d_sae} different ones")


@initializer(DataPointsConfig, check_data_points)
def data_points(config: DataPointsConfig, sources: Sources) -> Start:
    """Rows are different training activations minus their mean, as unit rows; each seed draws its own."""
    seed = int(torch.randint(2**31, (), generator=sources.draw(config)))
    x_ND = sources.data_points(sources.d_sae, seed)
    if len(x_ND) < sources.d_sae:
        raise bad_value(
            "d_sae", sources.d_sae, f"init={config.name} takes as many activations, and there are {len(x_ND)}"
        )
    return Start(unit_rows(x_ND))
