"""Read single weights from a model's files; all others stay on the disk, or on the hub."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saemd.errors import bad_value
from saemd.lm.anatomy import Part, columns, family, norm_scale, output
from saemd.lm.config import LMConfig
from saemd.lm.files import CONFIG, SHARDED, SINGLE, opened, resolve, weight_files
from saemd.lm.load import skeleton
from saemd.lm.pickled import with_safetensors

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)  # other types have a scale elsewhere


@dataclass(frozen=True)
class OutputWeights:
    """float32 copies: `weight` W [d, m], `bias` c [d], and the scale [d] of the norm behind them."""

    weight: Tensor
    bias: Tensor | None
    post_norm_scale: Tensor | None


def read_mlp_decoder(config: LMConfig, cache_root: Path, layer: int) -> OutputWeights:
    """The decoder of layer `layer`'s MLP: column i of the weight is the direction that neuron i writes.

    Of a sharded hub model, only the shards that hold it are fetched. Raises `UserError` for a layer, an architecture
    or a weight that does not exist. All readers do the same.
    """
    return _read_output(config, cache_root, layer, "mlp")


def read_attention_output(config: LMConfig, cache_root: Path, layer: int) -> Tensor:
    """The directions that layer `layer`'s attention writes, as columns [d, heads · head_dim], float32.

    Where a norm stands behind the attention, they are multiplied by its scale.
    """
    read = _read_output(config, cache_root, layer, "attention")
    return read.weight if read.post_norm_scale is None else read.weight * read.post_norm_scale[:, None]


def read_token_embeddings(config: LMConfig, cache_root: Path) -> Tensor:
    """The token embeddings as they are stored, float32 [vocabulary, d]. Gemma multiplies them by √d when it runs."""
    weights = _Weights(config, cache_root)
    table: Any = weights.model.get_input_embeddings()  # type: ignore[operator]
    name = next(name for name, module in weights.model.named_modules() if module is table)
    return weights.read(f"{name.rpartition('.')[2]}.weight", table.weight.shape)


def _read_output(config: LMConfig, cache_root: Path, layer: int, part: Part) -> OutputWeights:
    weights = _Weights(config, cache_root)
    model, names = weights.model, family(weights.model)
    modules, paths = output(model, layer, part), getattr(names, part)
    # Checkpoints of the bare and of the complete language model differ in the names before the stack's.
    prefix = f"{names.layers.rpartition('.')[2]}.{layer}"

    def read(path: str, parameter: str, module: Any) -> Tensor:
        return weights.read(f"{prefix}.{path}.{parameter}", getattr(module, parameter).shape)

    projection: Any = modules.projection
    weight = columns(model, read(paths.projection, "weight", projection)).contiguous()
    bias = None if projection.bias is None else read(paths.projection, "bias", projection)
    scale = None if paths.post_norm is None else norm_scale(model, read(paths.post_norm, "weight", modules.post_norm))
    return OutputWeights(weight, bias, scale)


class _Weights:
    """A model's structure without its weights, and a reader of single weights."""

    def __init__(self, config: LMConfig, cache_root: Path) -> None:
        self.config, self.cache_root = config, cache_root
        self.model = skeleton(config, resolve(config, cache_root, CONFIG))

    @cached_property
    def _files(self) -> tuple[Path, dict[str, str]]:
        """The model's folder, and the name of the file in it that holds each weight."""
        folder = resolve(self.config, self.cache_root, [*CONFIG, SHARDED, SINGLE])
        folder = with_safetensors(self.config, self.cache_root, folder)
        return folder, weight_files(self.config, folder)

    def read(self, name: str, shape: torch.Size) -> Tensor:
        """The one weight whose name ends in `name`, in float32."""
        config, (folder, files) = self.config, self._files
        stored = [key for key in files if key == name or key.endswith("." + name)]
        if len(stored) != 1:
            raise bad_value("lm.name", config.name, f"its weight files hold {len(stored)} weights {name}; it takes one")
        file = files[stored[0]]
        path = folder / file if (folder / file).is_file() else resolve(config, self.cache_root, [*CONFIG, file]) / file
        with opened(config, path) as weights:
            tensor = weights.get_tensor(stored[0])
        if tensor.dtype not in _FLOATS or tensor.shape != shape:
            remedy = f"{name} is {tensor.dtype} {[*tensor.shape]}, not floats {[*shape]}; take the model unquantised"
            raise bad_value("lm.name", config.name, remedy)
        return tensor.float()
