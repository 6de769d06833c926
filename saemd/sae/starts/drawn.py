"""Starts that are drawn at random and know nothing of the language model."""

import torch

from saemd.sae.starts.base import (
    DrawnConfig,
    ModelShape,
    Sources,
    Start,
    check_even,
    initializer,
    mirrored,
    random_directions,
    unit_rows,
)


@initializer(DrawnConfig)
def uniform(config: DrawnConfig, sources: Sources) -> Start:
    """Rows drawn Kaiming-uniform, then scaled to unit norm: the baseline (`dictionary_learning` 0.1.0)."""
    W_dec = torch.empty(sources.d_sae, sources.d_in)
    torch.nn.init.kaiming_uniform_(W_dec, generator=sources.draw(config))
    return Start(unit_rows(W_dec))


def check_random_mirrored(config: DrawnConfig, model: ModelShape, d_sae: int) -> None:
    check_even(config, d_sae)


@initializer(DrawnConfig, check_random_mirrored)
def random_mirrored(config: DrawnConfig, sources: Sources) -> Start:
    """W_dec = [R, −R], the rows of R drawn uniformly from the sphere: mirrored as `mirror`, without the MLP."""
    return Start(mirrored(random_directions(sources.d_sae // 2, sources.d_in, sources.draw(config))))
