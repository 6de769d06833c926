"""Read one layer's MLP decoder from a model's files, leaving all other weights on the disk (or the hub)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from saemd.errors import bad_value
from saemd.lm.anatomy import family, mlp_anatomy
from saemd.lm.config import LMConfig
from saemd.lm.files import CONFIG, SHARDED, SINGLE, opened, resolve, weight_files
from saemd.lm.load import skeleton
from saemd.lm.pickled import with_safetensors

_PLAIN = (torch.float32, torch.bfloat16, torch.float16)  # of other types, a scale elsewhere decides what they mean


@dataclass(frozen=True)
class MLPDecoder:
    """float32 copies: `weight` U [d, m], `bias` c [d], `post_norm_scale` [d] of the norm behind the MLP."""

    weight: Tensor
    bias: Tensor | None
    post_norm_scale: Tensor | None


def read_mlp_decoder(config: LMConfig, cache_root: Path, layer: int) -> MLPDecoder:
    """The decoder of layer `layer`'s MLP; of a sharded hub model, only the shards that hold it are fetched.

    Raises `UserError` for a layer, an architecture or a weight that is not there.
    """
    folder = resolve(config, cache_root, CONFIG)
    model = skeleton(config, folder)
    anatomy, kind = mlp_anatomy(model, layer), family(model)
    folder = with_safetensors(config, cache_root, resolve(config, cache_root, [*CONFIG, SHARDED, SINGLE]))
    files = weight_files(config, folder)
    stack = kind.layers.rpartition(".")[2]  # what precedes it differs between checkpoints of the bare and the whole LM

    def read(part: str, parameter: str, wanted: torch.Size) -> Tensor:
        name = f"{stack}.{layer}.{part}.{parameter}"
        stored = [key for key in files if key == name or key.endswith("." + name)]
        if len(stored) != 1:
            raise bad_value("lm.name", config.name, f"its weight files hold {len(stored)} weights {name}; it takes one")
        file = files[stored[0]]
        path = folder / file if (folder / file).is_file() else resolve(config, cache_root, [*CONFIG, file]) / file
        with opened(config, path) as weights:
            tensor = weights.get_tensor(stored[0])
        if tensor.dtype not in _PLAIN or tensor.shape != wanted:
            said = f"{name} is {tensor.dtype} {[*tensor.shape]}, not floats {[*wanted]}; take the model unquantised"
            raise bad_value("lm.name", config.name, said)
        return tensor.float()

    shape = anatomy.decoder.T.shape if kind.decoder_is_m_by_d else anatomy.decoder.shape
    weight = read(kind.decoder, "weight", shape)
    bias = None if anatomy.bias is None else read(kind.decoder, "bias", anatomy.bias.shape)
    scale = None
    if kind.post_norm is not None:
        assert anatomy.post_norm_scale is not None
        scale = read(kind.post_norm, "weight", anatomy.post_norm_scale.shape) + (1 if kind.norm_adds_one else 0)
    return MLPDecoder(weight.T.contiguous() if kind.decoder_is_m_by_d else weight, bias, scale)
