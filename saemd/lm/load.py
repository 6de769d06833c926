"""Describe causal language models, load them whole or up to a layer, and read a layer's output."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from timeit import timeit
from typing import Any

import torch
from torch import Tensor, nn

from saemd.errors import bad_value
from saemd.lm.anatomy import columns, decoder_layers, learned_positions, output
from saemd.lm.config import LMConfig
from saemd.lm.files import CONFIG, opened, resolve, weight_files
from saemd.lm.identity import fingerprint
from saemd.lm.patch import clean_pass
from saemd.lm.pickled import with_safetensors
from saemd.lm.pretrained import read_model, read_settings, read_tokenizer, readable, refuse_ids_beyond

__all__ = [
    "LM", "LMInfo", "fastest_dtype", "lm_info", "load_lm", "mlp_output", "residual_stream", "resolve", "skeleton",
]  # fmt: skip


@dataclass(frozen=True)
class LMInfo:
    """What is known of a model without loading its weights. `fingerprint` identifies them."""

    name: str
    d_model: int
    n_layers: int
    mlp_width: int  # m
    has_post_norm: bool  # behind the MLP
    fingerprint: str
    max_context: int | None = None  # tokens with a learned position; None: rotary positions, which have no end
    trained_context: int | None = None  # tokens, by its configuration


@dataclass(frozen=True)
class LM:
    """A loaded model, of which only the first layers may have been built."""

    model: nn.Module
    tokenizer: Any
    name: str


def skeleton(config: LMConfig, folder: Path) -> nn.Module:
    """The model without its weights (meta device), for names and shapes. Raises `UserError` as `read_settings` does."""
    from transformers import AutoModelForCausalLM

    settings = read_settings(config, folder)
    with torch.device("meta"), readable(config, str(folder / "config.json")):
        return AutoModelForCausalLM.from_config(settings, trust_remote_code=False)


def lm_info(config: LMConfig, cache_root: Path) -> LMInfo:
    """Sizes from the model's configuration alone. Of a hub model, nothing else is fetched.

    Raises `UserError` for an architecture that is not known, and for a local folder without all of its weights.
    """
    folder = resolve(config, cache_root, CONFIG)
    model = _skeleton(config.name, folder, (folder / "config.json").read_bytes())
    mlp: Any = output(model, 0, "mlp")
    d_model, m = columns(model, mlp.projection.weight).shape
    text: Any = model.config.get_text_config()  # type: ignore[operator]
    return LMInfo(
        config.name,
        d_model,
        len(decoder_layers(model)),
        m,
        mlp.post_norm is not None,
        fingerprint(config, folder, cache_root),
        learned_positions(model),
        getattr(text, "max_position_embeddings", None),
    )


@lru_cache
def _skeleton(name: str, folder: Path, config_json: bytes) -> nn.Module:
    """As `skeleton`, kept by config.json's content, since every job of a sweep needs it."""
    return skeleton(LMConfig(name), folder)


def load_lm(
    config: LMConfig,
    cache_root: Path,
    *,
    n_layers: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LM:
    """The model in eval mode, with its tokenizer. `n_layers` builds that many decoder layers, from the first.

    Raises `UserError` where the model has fewer layers, or where its files lack a weight or the tokenizer.
    """
    folder = with_safetensors(config, cache_root, resolve(config, cache_root))
    settings = read_settings(config, folder)
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
            pass  # a truncated file is refused here, in one line
    tokenizer = read_tokenizer(config, folder)
    model = read_model(config, folder, config=settings, dtype=dtype, use_safetensors=True)
    refuse_ids_beyond(config, tokenizer, model.get_input_embeddings())
    return LM(model.to(device).eval(), tokenizer, config.name)


@torch.inference_mode()
def residual_stream(lm: LM | nn.Module, layer: int, input_ids_BT: Tensor) -> Tensor:
    """Output [B, T, d] of decoder layer `layer`, before any final norm. `lm` is what `load_lm` returns, or its model.

    A hook reads it at the layer itself: `hidden_states[-1]` of a truncated model would have passed the final norm.
    """
    model: Any = lm.model if isinstance(lm, LM) else lm
    return clean_pass(model, layer, input_ids_BT.to(model.device))[0]


@torch.inference_mode()
def mlp_output(lm: LM | nn.Module, layer: int, input_ids_BT: Tensor) -> Tensor:
    """What the MLP of decoder layer `layer` adds to the residual stream [B, T, d], behind its post-norm if it has one.

    Without a post-norm this is Σ σ_i u_i + c: equation 6 of the paper holds exactly.
    """
    model: Any = lm.model if isinstance(lm, LM) else lm
    end, caught = output(model, layer, "mlp"), []
    handle = (end.post_norm or end.projection).register_forward_hook(lambda *call: caught.append(call[-1]))
    try:
        clean_pass(model, layer, input_ids_BT.to(model.device))
    finally:
        handle.remove()
    return caught[0].reshape(*input_ids_BT.shape, -1)  # OPT's MLP takes all contexts as one


def fastest_dtype(device: str = "cpu") -> torch.dtype:
    """bfloat16 where it is faster, else float32. A GPU reports it; a CPU is measured.

    CPUs without bfloat16 units emulate it, a hundred times slower. The best of five small products counts, which take
    turns, so that a busy machine does not change the result.
    """
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    dtypes = (torch.float32, torch.bfloat16)
    rounds = [[_seconds_of_product(dtype, device) for dtype in dtypes] for _ in range(5)]
    in_float32, in_bfloat16 = (min(column) for column in zip(*rounds, strict=True))
    return torch.bfloat16 if 1.2 * in_bfloat16 < in_float32 else torch.float32


def _seconds_of_product(dtype: torch.dtype, device: str) -> float:
    a, b = torch.ones(128, 512, device=device, dtype=dtype), torch.ones(512, 512, device=device, dtype=dtype)
    return timeit(lambda: (a @ b).sum().item(), number=1)
