"""The language model of a command, as far as its configuration says: shapes, FLOPs, bytes. Nothing is fetched."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saemd.errors import bad_value
from saemd.lm.anatomy import columns, decoder_layer, decoder_layers, output
from saemd.lm.config import LMConfig
from saemd.lm.files import local_folder
from saemd.lm.pretrained import read_settings
from saemd.planning.known import KNOWN

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class LanguageModel:
    """`settings` is transformers' configuration; `folder` holds it on this machine, None where it is not here."""

    config: LMConfig
    settings: Any
    folder: Path | None

    @cached_property
    def skeleton(self) -> nn.Module:
        """The whole model without its weights."""
        return build(self.settings, torch.device("meta"))

    @property
    def local(self) -> LMConfig:
        """A name under which every reader finds the model without asking the hub. Only where `folder` is here."""
        is_hub = not self.config.packages and local_folder(self.config) is None
        return LMConfig(str(self.folder)) if is_hub else self.config

    @property
    def has_weights(self) -> bool:
        return self.folder is not None and any(any(self.folder.glob(pattern)) for pattern in _WEIGHTS)

    @property
    def d_model(self) -> int:
        return columns(self.skeleton, self._mlp.weight).shape[0]

    @property
    def mlp_width(self) -> int:
        return columns(self.skeleton, self._mlp.weight).shape[1]

    @property
    def has_post_norm(self) -> bool:
        return output(self.skeleton, 0, "mlp").post_norm is not None

    @property
    def n_layers(self) -> int:
        return len(decoder_layers(self.skeleton))

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights on disk, in the type that the configuration names."""
        return self.parameters() * torch.empty(0, dtype=_dtype(self.settings)).element_size()

    @property
    def kept_per_context(self) -> int:
        """Special tokens of a context that are not kept: its BOS, where the model has one."""
        return 1 if getattr(self.settings.get_text_config(), "bos_token_id", None) is not None else 0

    def parameters(self, n_layers: int | None = None) -> int:
        """Number of the model's weights; with `n_layers` only those decoder layers, from the first, are counted."""
        total = sum(parameter.numel() for parameter in self.skeleton.parameters())  # shared ones once
        left_out = [] if n_layers is None else list(decoder_layers(self.skeleton))[n_layers:]
        return total - sum(p.numel() for layer in left_out for p in layer.parameters())

    def flops_per_token(self, layer: int, context_length: int) -> int:
        """Forward FLOPs of a token through layers 0 to `layer`: 2 a weight of a linear map, and those of attention.

        Attention multiplies each token with all tokens of its context twice: 4 · context_length · width a layer, masked
        pairs included, as `torch.utils.flop_counter` counts. Embeddings and norms are left out.
        """
        flops = 0
        for i in range(layer + 1):
            module = decoder_layer(self.skeleton, i)
            flops += 2 * sum(p.numel() for p in module.parameters() if p.dim() == 2)
            attention: Any = output(self.skeleton, i, "attention").projection
            flops += 4 * context_length * columns(self.skeleton, attention.weight).shape[1]
        return flops

    @property
    def _mlp(self) -> Any:
        return output(self.skeleton, 0, "mlp").projection


def describe(config: LMConfig, cache_root: Path) -> LanguageModel:
    """The model, from this machine's files or from `KNOWN`. Raises `UserError` where its configuration is in neither.

    Also for a folder without a model, and for an architecture that is not known.
    """
    folder = _folder(config, cache_root)
    if folder is not None:
        return LanguageModel(config, read_settings(config, folder), folder)
    if config.name in KNOWN:
        from transformers import AutoConfig

        return LanguageModel(config, AutoConfig.for_model(**KNOWN[config.name]), None)
    if config.packages:
        remedy = "its packages are not on this machine, and plan fetches nothing; saemd cache … fetches them"
    else:
        remedy = (
            "its config.json is not on this machine, and plan fetches nothing; fetch this small file with "
            f"`hf download {config.name} config.json`, or name a local folder with lm=hf lm.name=<folder>"
        )
    raise bad_value("lm.name", config.name, remedy)


def build(settings: Any, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """A model of this configuration, without weights on the meta device, with random ones on any other."""
    from transformers import AutoModelForCausalLM

    with device:  # a copy, since from_config changes what it is given
        return AutoModelForCausalLM.from_config(copy.deepcopy(settings), trust_remote_code=False, dtype=dtype).eval()


def _folder(config: LMConfig, cache_root: Path) -> Path | None:
    """The folder on this machine that has the model's `config.json`."""
    if config.packages:
        folder = cache_root / "models" / config.name
        return folder if folder.is_dir() else None
    if (local := local_folder(config)) is not None:
        return local
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(config.name, "config.json", revision=config.revision)
    except HFValidationError as error:
        raise bad_value("lm.name", config.name, "neither a local folder nor a hub id (owner/name)") from error
    return Path(path).parent if isinstance(path, str) else None


def _dtype(settings: Any) -> torch.dtype:
    dtype = getattr(settings, "dtype", None) or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype
