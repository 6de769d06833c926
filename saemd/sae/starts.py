"""How an SAE starts (`INITS`) and, where a start leaves it open, what its encoder is (`ENCODERS`).

A start is a pure function of its configuration and its sources, registered here by `@initializer`. To add one: a
function (with a dataclass where it has keys of its own) and a YAML in `conf/init/`; no other file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saemd.errors import UserError, bad_value
from saemd.sae.base import SAE, SAEConfig
from saemd.sae.registry import ARCHITECTURES


@dataclass
class InitConfig:
    """The keys that every start has; a start may add its own in a subclass."""

    name: str = ""  # a key of INITS
    label: str = ""  # names the runs' folder, init=<label>
    encoder: str = "tied"  # W_enc from W_dec where the start gives no encoder: a key of ENCODERS


@dataclass
class Start:
    """The weights at step 0, in normalised units.

    What is left out: W_enc is `init.encoder` of W_dec; biases and θ are the architecture's own.
    """

    W_dec: Tensor  # [F, D]
    W_enc: Tensor | None = None  # [D, F]
    b_enc: Tensor | None = None  # [F]
    b_dec: Tensor | None = None  # [D]
    threshold: Tensor | None = None  # [F]


@dataclass(frozen=True)
class ModelShape:
    """What is known of the language model before it is loaded."""

    d_model: int
    mlp_width: int  # m
    has_post_norm: bool  # behind the MLP, as in Gemma-2


@dataclass(frozen=True)
class Sources:
    """What a start may draw on. The callables read when called, so nothing unneeded is loaded.

    Layers count from 0; None is the layer whose activations are trained on.
    """

    d_in: int
    d_sae: int
    sample: Callable[[], Tensor]  # activations [N, D], normalised units
    mlp_decoder: Callable[[int | None], tuple[Tensor, Tensor | None]]  # U [D, m], and the post-norm's weight [D]
    attention_output: Callable[[int | None], Tensor]  # [D, heads · head width]: the directions that attention writes
    token_embeddings: Callable[[], Tensor]  # [V, D], as stored
    saved_sae: Callable[[str], SAE]  # of a run's or an export's folder
    generator: torch.Generator  # the seed's own (init_seed)
    shared_generator: torch.Generator  # the same for every seed


Rule = Callable[[Any, ModelShape, int], None]  # config, model, d_sae; raises UserError


@dataclass(frozen=True)
class Initializer:
    """A start's function, its configuration, and the rule that its model and width must keep."""

    function: Callable[[Any, Sources], Start]
    Config: type[InitConfig]
    check: Rule

    def __call__(self, config: InitConfig, sources: Sources) -> Start:
        return self.function(config, sources)


INITS: Mapping[str, Initializer] = {}


def initializer(
    Config: type[InitConfig] = InitConfig, check: Rule = lambda config, model, d_sae: None
) -> Callable[[Callable[[Any, Sources], Start]], Initializer]:
    """Register the function below it under its own name."""

    def register(function: Callable[[Any, Sources], Start]) -> Initializer:
        assert isinstance(INITS, dict)
        INITS[function.__name__] = Initializer(function, Config, check)
        return INITS[function.__name__]

    return register


@initializer()
def uniform(config: InitConfig, sources: Sources) -> Start:
    """Rows drawn Kaiming-uniform, then scaled to unit norm: the baseline (`dictionary_learning` 0.1.0)."""
    W_dec = torch.empty(sources.d_sae, sources.d_in)
    torch.nn.init.kaiming_uniform_(W_dec, generator=sources.generator)
    return Start(unit_rows(W_dec))


@dataclass
class MirrorConfig(InitConfig):
    """W_dec = [U, −U] of an MLP."""

    encoder: str = "dual"
    fold_postnorm: bool = False  # multiply U by the post-norm's weight (Gemma-2, Gemma-3): what neurons really write


def check_mirror(config: MirrorConfig, model: ModelShape, d_sae: int) -> None:
    m = model.mlp_width
    if d_sae != 2 * m:
        raise bad_value("d_sae", d_sae, f"init=mirror has 2m={2 * m} latents, m={m} the MLP's hidden width")
    if config.fold_postnorm and not model.has_post_norm:
        raise bad_value("init.fold_postnorm", True, "this model has no norm behind its MLP; set it to false")


@initializer(MirrorConfig, check_mirror)
def mirror(config: MirrorConfig, sources: Sources) -> Start:
    """W_dec = [U, −U] with unit rows (the paper's SAE-MD): latent i and latent i + m point opposite ways.

    `fold_postnorm` multiplies by the weight of the norm behind the MLP, so that rows point where neurons really write.
    Nothing is drawn: every seed starts from the same weights.
    """
    U, post_norm_D = sources.mlp_decoder(None)
    check_mirror(config, ModelShape(len(U), U.shape[1], post_norm_D is not None), sources.d_sae)
    if config.fold_postnorm and post_norm_D is not None:
        U = U * post_norm_D[:, None]
    rows = unit_rows(U.T)
    return Start(torch.cat([rows, -rows]))


def tied(W_dec: Tensor, sources: Sources) -> Tensor:
    """W_enc = W_decᵀ (the paper's code)."""
    return W_dec.T.clone()


def gain(W_dec: Tensor, sources: Sources) -> Tensor:
    """s·W_decᵀ with the one s that minimises ‖x − x̂‖² over cached activations, θ and biases being 0.

    ReLU is homogeneous, so x̂(s) = s·y with y = ReLU(x W_decᵀ) W_dec, and s = ⟨x, y⟩/⟨y, y⟩.
    """
    x_ND = sources.sample()
    y_ND = torch.relu(x_ND @ W_dec.T) @ W_dec
    return W_dec.T * ((x_ND * y_ND).sum() / y_ND.pow(2).sum())


def dual(W_dec: Tensor, sources: Sources) -> Tensor:
    """The dual frame: W_encᵀ = W_dec (½ W_decᵀ W_dec)⁻¹, so that [U, −U] reconstructs exactly at θ = 0.

    For W_dec = [U, −U] the ReLUs split each uᵀx into its two signs and x̂ = U Uᵀ (U Uᵀ)⁻¹ x = x. Where rows are not
    mirrored the linear half of the ReLUs still gives x, and |·|, the other half, is what remains as error.
    Directions that no row reaches are left out (pseudo-inverse).
    """
    W = W_dec.double()
    return (torch.linalg.pinv(0.5 * W.T @ W, hermitian=True) @ W.T).float()


ENCODERS: Mapping[str, Callable[[Tensor, Sources], Tensor]] = {"tied": tied, "gain": gain, "dual": dual}


def check_init(config: InitConfig) -> None:
    """Raise `UserError` for a start or an encoder that does not exist."""
    if config.name not in INITS:
        raise bad_value("init.name", config.name, f"known are {', '.join(INITS)}")
    if config.encoder not in ENCODERS:
        raise bad_value("init.encoder", config.encoder, f"known are {', '.join(ENCODERS)}")


@torch.no_grad()
def build(init: InitConfig, architecture: SAEConfig, sources: Sources, *, target_l0: float, scale: float) -> SAE:
    """The SAE at step 0. Raises `UserError` where the start does not fit the architecture or the activations."""
    check_init(init)
    sae = ARCHITECTURES[architecture.name](sources.d_in, sources.d_sae, architecture, target_l0=target_l0, scale=scale)
    start = INITS[init.name](init, sources)
    if start.W_enc is None:
        start.W_enc = ENCODERS[init.encoder](start.W_dec, sources)
    sae.fill_defaults(sources.sample)
    own = dict(sae.named_parameters())
    for name, value in vars(start).items():
        if value is None:
            continue
        if name not in own:
            raise bad_value("init", init.label, f"gives {name}, which sae={architecture.name} has not")
        if value.shape != own[name].shape:
            raise UserError(
                f"init={init.label}: {name} of shape {list(value.shape)}, where the activations' width and d_sae ask "
                f"for {list(own[name].shape)}; the cache and the model must belong together"
            )
        own[name].copy_(value)
    return sae


def unit_rows(W: Tensor) -> Tensor:
    """Rows scaled to norm 1."""
    return W / W.norm(dim=1, keepdim=True)
