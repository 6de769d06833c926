"""What a run's start is given: the shape of its language model, and the sources that it may draw on."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from saemd.activations.source import Source
from saemd.config import Config, width
from saemd.lm.load import lm_info
from saemd.lm.weights import read_attention_output, read_mlp_decoder, read_token_embeddings
from saemd.sae import ModelShape, Sources, load_finite
from saemd.sae.starts.base import SHARED_SEED

SAMPLE_TOKENS = 16_384  # activations that a start may look at


class Sizes(Protocol):
    """What `model_shape` takes of a language model."""

    @property
    def d_model(self) -> int: ...
    @property
    def mlp_width(self) -> int: ...
    @property
    def has_post_norm(self) -> bool: ...
    @property
    def n_layers(self) -> int: ...


def model_shape(config: Config, model: Sizes) -> ModelShape:
    return ModelShape(
        model.d_model, model.mlp_width, model.has_post_norm, model.n_layers, config.layer, config.activations.tokens
    )


def sources_of(config: Config, source: Source) -> Sources:
    """What the start of this run may draw on. Reading is left to its calls."""
    root = Path(config.cache_root)
    info = lm_info(config.lm, root)

    def mlp_decoder(layer: int | None) -> tuple[Tensor, Tensor | None]:
        mlp = read_mlp_decoder(config.lm, root, config.layer if layer is None else layer)
        return mlp.weight, mlp.post_norm_scale

    def attention_output(layer: int | None) -> Tensor:
        return read_attention_output(config.lm, root, config.layer if layer is None else layer)

    return Sources(
        d_in=source.d_in,
        d_sae=width(config, info.mlp_width),
        model=model_shape(config, info),
        sample=lambda: source.sample(SAMPLE_TOKENS) / source.scale,
        data_points=lambda n, seed: (source.sample(n, seed) - source.mean) / source.scale,
        mlp_decoder=mlp_decoder,
        attention_output=attention_output,
        token_embeddings=lambda: read_token_embeddings(config.lm, root),
        saved_sae=load_finite,
        scale=source.scale,
        generator=torch.Generator().manual_seed(config.init_seed),
        shared_generator=torch.Generator().manual_seed(SHARED_SEED),
    )
