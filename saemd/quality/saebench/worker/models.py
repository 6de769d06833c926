"""A local model folder for SAEBench: in the form that transformers 4 reads, and as a HookedTransformer.

SAEBench names models by their hub id and TransformerLens refuses local folders, so SAEBench gets the model built here
from a replaced `HookedTransformer.from_pretrained_no_processing`. RAVEL asks for transformers' own model.
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from sae_bench.sae_bench_utils import activation_collection
from torch import nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gemma_weights, convert_llama_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from saemd.errors import UserError
from saemd.quality.saebench.worker.translate import beginning_with_bos, translated_config, translated_tokenizer

TRANSLATED = ("config.json", "tokenizer_config.json", "tokenizer.json")
CONVERSIONS = {"Gemma2ForCausalLM": convert_gemma_weights, "LlamaForCausalLM": convert_llama_weights}
ARCHITECTURES = tuple(CONVERSIONS)


def prepare(folder: Path, target: Path) -> Path:
    """Fill `target` with the model of `folder` for transformers 4: links to the weights, translated configurations."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file() and path.name not in TRANSLATED:
            (target / path.name).symlink_to(path.resolve())
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(translated_config(config), indent=2))
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        settings = json.loads(tokenizer.read_text())
        (target / tokenizer.name).write_text(json.dumps(translated_tokenizer(settings), indent=2))
        vocabulary = json.loads((folder / "tokenizer.json").read_text())
        (target / "tokenizer.json").write_text(json.dumps(beginning_with_bos(vocabulary, settings)))
    return target


def hooked(folder: Path, name: str, device: str, dtype: torch.dtype) -> HookedTransformer:
    """The model in `folder` (prepared) as a HookedTransformer; its `cfg.model_name` is `name`.

    Both forms must give the same logits on a short prompt: a wrong conversion would silently change every score.
    """
    transformers.logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype, attn_implementation="eager").eval()
    architecture = type(model).__name__
    if architecture not in CONVERSIONS:
        raise UserError(f"lm: SAEBench is connected to {' and '.join(ARCHITECTURES)}, not to {architecture}")
    config = hooked_config(model.config, architecture, name, device, dtype)
    lens = HookedTransformer(config, AutoTokenizer.from_pretrained(folder), move_to_device=False)
    lens.load_and_process_state_dict(
        CONVERSIONS[architecture](model, config), fold_ln=False, center_writing_weights=False, center_unembed=False,
        fold_value_biases=False,
    )  # fmt: skip
    _refuse_difference(model, lens, dtype)
    lens.move_model_modules_to_device()
    return lens.eval()


def layers(folder: Path, count: int, device: str, dtype: torch.dtype) -> Any:
    """The first `count` layers of transformers' own model in `folder` (prepared).

    With fused attention, except where scores are capped (Gemma-2), for it would leave out the cap.
    """
    capped = json.loads((folder / "config.json").read_text()).get("attn_logit_softcapping")
    attention = "eager" if capped else "sdpa"
    causal_lm: Any = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype, attn_implementation=attention)
    model = causal_lm.base_model
    del model.layers[count:]
    return model.to(device).eval()


def hooked_config(hf: Any, architecture: str, name: str, device: str, dtype: torch.dtype) -> HookedTransformerConfig:
    """TransformerLens's configuration for a Gemma-2 or Llama one, with any sizes."""
    gemma = hf.model_type == "gemma2"
    grouped = gemma or hf.num_key_value_heads != hf.num_attention_heads
    settings: dict[str, Any] = {
        "model_name": name,
        "original_architecture": architecture,
        "d_model": hf.hidden_size,
        "d_head": hf.head_dim,
        "n_heads": hf.num_attention_heads,
        "n_key_value_heads": hf.num_key_value_heads if grouped else None,
        "d_mlp": hf.intermediate_size,
        "n_layers": hf.num_hidden_layers,
        "n_ctx": min(hf.max_position_embeddings, 8192),  # it keeps masks of n_ctx × n_ctx
        "eps": hf.rms_norm_eps,
        "d_vocab": hf.vocab_size,
        "act_fn": hf.hidden_activation if gemma else hf.hidden_act,
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_base": hf.rope_theta,
        "rotary_dim": hf.head_dim,
        "rotary_adjacent_pairs": False,
        "final_rms": True,
        "gated_mlp": True,
        "init_weights": False,
        "device": device,
        "dtype": dtype,
        "default_prepend_bos": True,
    }
    if gemma:
        local = ["local" if layer == "sliding_attention" else "global" for layer in hf.layer_types]
        settings |= {
            "use_normalization_before_and_after": True,
            "attn_scale": math.sqrt(hf.query_pre_attn_scalar),
            "attn_scores_soft_cap": hf.attn_logit_softcapping or -1.0,
            "output_logits_soft_cap": hf.final_logit_softcapping or -1.0,
            "use_local_attn": True,
            "window_size": hf.sliding_window,
            "attn_types": local,
        }
    return HookedTransformerConfig(**settings)


@torch.inference_mode()
def _refuse_difference(model: Any, lens: HookedTransformer, dtype: torch.dtype) -> None:
    tokens = (torch.arange(12) * 7 % model.config.vocab_size)[None]
    expected, converted = model(tokens).logits.float(), lens(tokens).float()
    tolerance = 1e-3 if dtype == torch.float32 else 0.05
    difference = (expected - converted).abs().max().item() / expected.abs().max().item()
    if not difference <= tolerance:
        raise UserError(f"lm: TransformerLens's form of it differs by {difference:.1e} in its logits; not measured")


class TupleLayer:
    """A decoder layer whose hooks get a tuple: RAVEL's hooks index `outputs[0]`."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    def register_forward_hook(self, hook: Any) -> Any:
        def on_tuple(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return hook(module, inputs, output)
            changed = hook(module, inputs, (output,))
            return None if changed is None else changed[0]

        return self._layer.register_forward_hook(on_tuple)


@contextmanager
def layers_that_return_tuples() -> Iterator[None]:
    """Within, SAEBench gets `TupleLayer`s. It knows the layers of Gemma-2; those of a Llama have the same path."""

    def get_module(model: Any, layer: int) -> Any:
        return TupleLayer(model.model.layers[layer])

    with patch.multiple(activation_collection, get_module=get_module):
        yield
