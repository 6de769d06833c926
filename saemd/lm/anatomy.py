"""Where a causal language model keeps its decoder layers, and what each layer adds to the residual stream.

Each of a layer's two parts, attention and MLP, ends in a linear map W [d, m] with the bias c. With σ [.., m] as the
input of that map (equations 5 and 6 of the paper for the MLP), the part adds

    post_norm(Σ_i σ_i w_i + c)      (most architectures have no post_norm)

to the residual stream, where w_i is column i of W: the direction that neuron i, or dimension i of the heads, writes.
Tests hold every family to this equation. To add one, write its entry here and its tiny configuration in the tests.
"""

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from saemd.errors import UserError, bad_value

Part = Literal["mlp", "attention"]


class Paths(NamedTuple):
    """Attribute paths, from a layer, of a part's last linear map and of the norm behind it."""

    projection: str
    post_norm: str | None = None


@dataclass(frozen=True)
class Family:
    """`layers` and `positions` are attribute paths from the causal language model."""

    layers: str
    mlp: Paths
    attention: Paths
    norm_adds_one: bool = False  # the RMSNorm multiplies by 1 + weight (Gemma)
    stores_transposed: bool = False  # GPT-2's Conv1D stores Wᵀ
    positions: str | None = None  # the table of learned positions; None: rotary positions, which have no end


_LLAMA = Family("model.layers", Paths("mlp.down_proj"), Paths("self_attn.o_proj"))
_OLMO2 = replace(
    _LLAMA,
    mlp=Paths("mlp.down_proj", "post_feedforward_layernorm"),
    attention=Paths("self_attn.o_proj", "post_attention_layernorm"),
)
_GEMMA2 = replace(_OLMO2, norm_adds_one=True)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": replace(_GEMMA2, layers="model.language_model.layers"),  # with the vision tower
    "olmo2": _OLMO2,
    "gpt2": Family(
        "transformer.h", Paths("mlp.c_proj"), Paths("attn.c_proj"), stores_transposed=True, positions="transformer.wpe"
    ),
    "gpt_neox": Family("gpt_neox.layers", Paths("mlp.dense_4h_to_h"), Paths("attention.dense")),
    "opt": Family(
        "model.decoder.layers", Paths("fc2"), Paths("self_attn.out_proj"), positions="model.decoder.embed_positions"
    ),
    "phi": Family("model.layers", Paths("mlp.fc2"), Paths("self_attn.dense")),
}


class Output(NamedTuple):
    """The modules at the end of a layer's part."""

    projection: nn.Module
    post_norm: nn.Module | None


def family(model: nn.Module) -> Family:
    """The entry of `FAMILIES` for this model. Raises `UserError` for any other."""
    config: Any = model.config
    name = config.model_type
    refuse_unknown(name)
    if name == "opt" and not config.do_layer_norm_before:
        raise UserError(
            "lm: this opt model has its LayerNorm behind the residual sum (do_layer_norm_before=false, as opt-350m), "
            "so its MLP adds no sum of columns; choose one that has it before"
        )
    return FAMILIES[name]


def refuse_unknown(model_type: str) -> None:
    """Raises `UserError` for a `model_type` outside `FAMILIES`."""
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UserError(f"lm: the architecture {model_type} is not known here; known are {known}")


def learned_positions(model: nn.Module) -> int | None:
    """The longest context in tokens; None for rotary positions, which have no end."""
    path = family(model).positions
    if path is None:
        return None
    table = attrgetter(path)(model)
    return table.num_embeddings - getattr(table, "offset", 0)  # OPT's first rows stand for padding


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of decoder layers, in order."""
    return attrgetter(family(model).layers)(model)


def decoder_layer(model: nn.Module, layer: int) -> nn.Module:
    """Decoder layer `layer`, from 0. Raises `UserError` where the model has no such layer."""
    layers = decoder_layers(model)
    if not 0 <= layer < len(layers):
        raise bad_value("layer", layer, f"this model has layers 0 to {len(layers) - 1}")
    return layers[layer]


def output(model: nn.Module, layer: int, part: Part) -> Output:
    """The end of one part of decoder layer `layer`. Raises `UserError` where the model has no such layer."""
    module, paths = decoder_layer(model, layer), getattr(family(model), part)
    post_norm = attrgetter(paths.post_norm)(module) if paths.post_norm else None
    return Output(attrgetter(paths.projection)(module), post_norm)


def columns(model: nn.Module, stored: Tensor) -> Tensor:
    """W [d, m] of the weight that an output projection stores."""
    return stored.T if family(model).stores_transposed else stored


def norm_scale(model: nn.Module, stored: Tensor) -> Tensor:
    """What a post-norm multiplies by [d]: column i writes along scale · w_i, up to the norm's division."""
    return stored + (1 if family(model).norm_adds_one else 0)
