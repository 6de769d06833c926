"""Read one layer's MLP decoder from a model's files, leaving all other weights on the disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from saemd.errors import UserError
from saemd.lm.anatomy import family, mlp_anatomy
from saemd.lm.config import LMConfig
from saemd.lm.load import resolve, skeleton


@dataclass(frozen=True)
class MLPDecoder:
    """float32 copies: `weight` U [d, m], `bias` c [d], `post_norm_scale` [d] of the norm behind the MLP."""

    weight: Tensor
    bias: Tensor | None
    post_norm_scale: Tensor | None


def read_mlp_decoder(config: LMConfig, cache_root: Path, layer: int) -> MLPDecoder:
    """The decoder of layer `layer`'s MLP. Raises `UserError` for a layer or an architecture that is not there."""
    folder = resolve(config, cache_root)
    model = skeleton(folder)
    anatomy, kind = mlp_anatomy(model, layer), family(model)
    names = {id(module): name for name, module in model.named_modules()}
    files = _files(folder)

    def read(module: nn.Module, parameter: str) -> Tensor:
        name = f"{names[id(module)]}.{parameter}"
        # Checkpoints of the bare model lack the prefix of the causal LM around it.
        stored = next((key for key in files if name == key or name.endswith("." + key)), None)
        if stored is None:
            raise UserError(f"lm.name={config.name}: its weight files lack {name}; save the model as safetensors")
        with safe_open(files[stored], "pt") as file:
            return file.get_tensor(stored).float()

    weight = read(anatomy.decoder_module, "weight")
    bias = None if anatomy.bias is None else read(anatomy.decoder_module, "bias")
    scale = None
    if anatomy.post_norm is not None:
        scale = read(anatomy.post_norm, "weight") + (1 if kind.norm_adds_one else 0)
    return MLPDecoder(weight.T.contiguous() if kind.decoder_is_m_by_d else weight, bias, scale)


def _files(folder: Path) -> dict[str, Path]:
    """Weight name → file, for one file or a sharded checkpoint."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    single = folder / "model.safetensors"
    if not single.is_file():
        raise UserError(f"lm.name={folder}: no model.safetensors here; save the model as safetensors")
    with safe_open(single, "pt") as file:
        return dict.fromkeys(file.keys(), single)
