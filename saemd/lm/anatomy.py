"""Where the parts of a causal language model are: decoder layers, the MLP's decoder, the norm behind it.

With σ [.., m] what enters the MLP's decoder (eq. 5-6 of the paper), the layer adds

    post_norm(Σ_i σ_i u_i + c)      (post_norm: identity in most architectures)

to the residual stream, u_i being column i of `MLPAnatomy.decoder`. Held to this by tests for every family listed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from saemd.errors import UserError, bad_value


@dataclass(frozen=True)
class Family:
    """Attribute paths: of the decoder layers from the causal LM, of all else from a layer."""

    layers: str
    decoder: str
    activation: str
    post_norm: str | None = None
    norm_adds_one: bool = False  # the RMSNorm multiplies by 1 + weight (Gemma)
    decoder_is_m_by_d: bool = False  # GPT-2's Conv1D stores [m, d]
    positions: str | None = None  # the table of learned positions, from the causal LM; None: rotary, which has no end


_LLAMA = Family("model.layers", "mlp.down_proj", "mlp.act_fn")
_GEMMA = Family("model.layers", "mlp.down_proj", "mlp.act_fn", "post_feedforward_layernorm", norm_adds_one=True)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": Family("model.layers", "mlp.down_proj", "mlp.activation_fn"),
    "gemma": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3": replace(_GEMMA, layers="model.language_model.layers"),  # with the vision tower
    "olmo2": Family("model.layers", "mlp.down_proj", "mlp.act_fn", "post_feedforward_layernorm"),
    "gpt2": Family("transformer.h", "mlp.c_proj", "mlp.act", decoder_is_m_by_d=True, positions="transformer.wpe"),
    "gpt_neox": Family("gpt_neox.layers", "mlp.dense_4h_to_h", "mlp.act"),
    "opt": Family("model.decoder.layers", "fc2", "activation_fn", positions="model.decoder.embed_positions"),
    "phi": Family("model.layers", "mlp.fc2", "mlp.activation_fn"),
}


@dataclass(frozen=True)
class MLPAnatomy:
    """The decoder of one layer's MLP. Tensors are views of the model's own weights where it stores them so."""

    decoder: Tensor  # U [d, m], whatever the module stores
    bias: Tensor | None  # c [d]
    decoder_module: nn.Module  # its input is σ [.., m]
    activation: nn.Module  # the non-linearity: σ is its output, in gated MLPs times a linear map of the input
    post_norm: nn.Module | None
    post_norm_scale: Tensor | None  # [d]: neuron i writes along diag(scale) u_i, up to the norm's division


def family(model: nn.Module) -> Family:
    """The entry of `FAMILIES` for this model. Raises `UserError` with the known ones for any other."""
    config: Any = model.config
    kind = config.model_type
    refuse_unknown(kind)
    if kind == "opt" and not config.do_layer_norm_before:
        raise UserError(
            "lm: this opt model has its LayerNorm behind the residual sum (do_layer_norm_before=false, as opt-350m), "
            "so its MLP adds no sum of columns; choose one that has it before"
        )
    return FAMILIES[kind]


def refuse_unknown(kind: str) -> None:
    """Raises `UserError` for a `model_type` outside `FAMILIES`."""
    if kind not in FAMILIES:
        raise UserError(f"lm: the architecture {kind} is not known here; known are {', '.join(sorted(FAMILIES))}")


def learned_positions(model: nn.Module) -> int | None:
    """How many tokens a context may have at most; None where positions are rotary."""
    path = family(model).positions
    if path is None:
        return None
    table = attrgetter(path)(model)
    return table.num_embeddings - getattr(table, "offset", 0)  # OPT's first rows stand for padding


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of decoder layers, in order."""
    return attrgetter(family(model).layers)(model)


def mlp_anatomy(model: nn.Module, layer: int) -> MLPAnatomy:
    """The MLP of decoder layer `layer`, from 0. Raises `UserError` where the model has no such layer."""
    kind, layers = family(model), decoder_layers(model)
    if not 0 <= layer < len(layers):
        raise bad_value("layer", layer, f"this model has layers 0 to {len(layers) - 1}")
    module = attrgetter(kind.decoder)(layers[layer])
    post_norm = attrgetter(kind.post_norm)(layers[layer]) if kind.post_norm else None
    scale = None if post_norm is None else post_norm.weight + (1 if kind.norm_adds_one else 0)
    decoder = module.weight.T if kind.decoder_is_m_by_d else module.weight
    activation = attrgetter(kind.activation)(layers[layer])
    return MLPAnatomy(decoder, module.bias, module, activation, post_norm, scale)
