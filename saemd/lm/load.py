"""Describe and load causal language models, whole or only up to the layer that is wanted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saemd.errors import bad_value
from saemd.lm.anatomy import decoder_layers, mlp_anatomy
from saemd.lm.config import LMConfig
from saemd.lm.files import CONFIG, fingerprint, opened, resolve, weight_files
from saemd.lm.pickled import refuse_missing, with_safetensors
from saemd.lm.quiet import quiet_transformers

__all__ = ["LM", "LMInfo", "fastest_dtype", "lm_info", "load_lm", "residual_stream", "resolve", "skeleton"]


@dataclass(frozen=True)
class LMInfo:
    """What can be said of a model without loading its weights. `fingerprint` identifies them."""

    name: str
    d_model: int
    n_layers: int
    mlp_width: int  # m
    has_post_norm: bool  # a norm stands behind the MLP
    fingerprint: str


@dataclass(frozen=True)
class LM:
    """A loaded model; `n_layers_total` is what its files hold, also where fewer layers were built."""

    model: nn.Module
    tokenizer: Any
    name: str
    d_model: int
    n_layers_total: int


def skeleton(folder: Path) -> nn.Module:
    """The model without its weights (meta device), for names and shapes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"), quiet_transformers():
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))


def lm_info(config: LMConfig, cache_root: Path) -> LMInfo:
    """Sizes from the model's configuration alone: of a hub model nothing else is fetched.

    Raises `UserError` for an architecture that is not known.
    """
    folder = resolve(config, cache_root, CONFIG)
    sizes = _sizes(folder, (folder / "config.json").read_text())
    return LMInfo(config.name, *sizes, fingerprint(config, folder))


@lru_cache
def _sizes(folder: Path, config_json: str) -> tuple[int, int, int, bool]:
    """(d_model, layers, MLP width, post-norm), which config.json's text decides; every job of a sweep asks for them."""
    model = skeleton(folder)
    mlp = mlp_anatomy(model, 0)
    d_model, m = mlp.decoder.shape
    return d_model, len(decoder_layers(model)), m, mlp.post_norm is not None


def load_lm(
    config: LMConfig,
    cache_root: Path,
    *,
    n_layers: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LM:
    """The model in eval mode with its tokenizer; with `n_layers`, only the first so many decoder layers are built.

    Raises `UserError` where the model has fewer layers, or where its files lack a weight or the tokenizer.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = with_safetensors(config, cache_root, resolve(config, cache_root))
    settings = AutoConfig.from_pretrained(folder)
    text = settings.get_text_config()
    total = text.num_hidden_layers
    if n_layers is not None:
        if not 1 <= n_layers <= total:
            raise bad_value("n_layers", n_layers, f"{config.name} has {total} layers")
        text.num_hidden_layers = n_layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:n_layers]
    for file in sorted(set(weight_files(config, folder).values())):
        with opened(config, folder / file):
            pass  # a truncated file ends here, in one line
    with quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=settings, dtype=dtype, output_loading_info=True
        )
    model, found = loaded
    refuse_missing(config, found)
    return LM(model.to(device).eval(), _tokenizer(config, folder), config.name, text.hidden_size, total)


def _tokenizer(config: LMConfig, folder: Path) -> Any:
    from transformers import AutoTokenizer

    # Without files transformers hands out an empty tokenizer.
    if not any(any(folder.glob(pattern)) for pattern in ("tokenizer.*", "vocab.*", "*.model")):
        remedy = f"{folder} has no tokenizer; save it there with tokenizer.save_pretrained"
        raise bad_value("lm.name", config.name, remedy)
    return AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def residual_stream(lm: LM | nn.Module, layer: int, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Output [B, T, d] of decoder layer `layer` for token ids [B, T], before any final norm; no logits are computed.

    `lm` is what `load_lm` gave, or its model; `attention_mask` [B, T] is 0 at padding. A hook reads the layer itself:
    `hidden_states[-1]` of a truncated model would have passed the final norm.
    """
    model = lm.model if isinstance(lm, LM) else lm
    layers = decoder_layers(model)
    if not 0 <= layer < len(layers):
        raise bad_value("layer", layer, f"this model has layers 0 to {len(layers) - 1}")
    caught: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    device: Any = model.device
    mask = None if attention_mask is None else attention_mask.to(device)
    handle = layers[layer].register_forward_hook(keep)
    try:
        model.base_model(input_ids=input_ids.to(device), attention_mask=mask, use_cache=False)  # type: ignore[operator]
    finally:
        handle.remove()
    return caught[0]


def fastest_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 where it is the faster one, else float32: a GPU says so itself, a CPU is measured here and now.

    CPUs without bfloat16 units emulate it, a hundred times slower. The best of five small products counts, so that a
    busy machine does not change the answer.
    """
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    seconds = {dtype: _seconds_of_product(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if 1.2 * seconds[torch.bfloat16] < seconds[torch.float32] else torch.float32


def _seconds_of_product(dtype: torch.dtype, device: str) -> float:
    a, b = torch.ones(128, 512, device=device, dtype=dtype), torch.ones(512, 512, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - started)
    return best
