"""How an SAE starts: the decoder (`INITS`) and, independently of it, the encoder (`ENCODERS`).

Each is a pure function of what it is given and of its own generator. `build` puts the parts in their fixed order:
scale, b_dec, W_dec, W_enc, θ. To add an initialisation, write one function, enter it in `INITS`, and give it a YAML in
`conf/init/` (with a dataclass in `saemd/sae/config.py` if it has keys of its own).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saemd.errors import UserError, bad_value
from saemd.sae.model import Bias, JumpReLUSAE

if TYPE_CHECKING:  # the configuration's library is not needed to train
    from saemd.sae.config import InitConfig, MirrorConfig


@dataclass(frozen=True)
class Sources:
    """What an initialisation may draw on. The callables read when called, so nothing unneeded is loaded."""

    d_in: int
    d_sae: int
    mlp_decoder: Callable[[], tuple[Tensor, Tensor | None]]  # U [D, m] and the post-norm's weight [D] behind it
    sample: Callable[[], Tensor]  # cached activations [N, D], normalised units


Initializer = Callable[[Sources, Any, torch.Generator], Tensor]  # sources, its config, generator → W_dec [F, D]
Encoder = Callable[[Tensor, Sources], Tensor]  # W_dec [F, D], sources → W_enc [D, F]


def uniform(sources: Sources, config: InitConfig, generator: torch.Generator) -> Tensor:
    """Rows drawn Kaiming-uniform, then scaled to unit norm: the baseline (`dictionary_learning` 0.1.0)."""
    W_dec = torch.empty(sources.d_sae, sources.d_in)
    torch.nn.init.kaiming_uniform_(W_dec, generator=generator)
    return unit_rows(W_dec)


def mirror(sources: Sources, config: MirrorConfig, generator: torch.Generator) -> Tensor:
    """W_dec = [U, −U] with unit rows (the paper's SAE-MD): latent i and latent i + m point opposite ways.

    `fold_postnorm` multiplies by the weight of the norm behind the MLP, so that rows point where neurons really write.
    Nothing is drawn: every seed starts from the same weights. Raises `UserError` unless d_sae = 2m.
    """
    U, post_norm_D = sources.mlp_decoder()
    refuse_width(sources.d_sae, U.shape[1])
    if config.fold_postnorm:
        if post_norm_D is None:
            raise bad_value("init.fold_postnorm", True, "this model has no norm behind its MLP; set it to false")
        U = U * post_norm_D[:, None]
    rows = unit_rows(U.T)
    return torch.cat([rows, -rows])


def refuse_width(d_sae: int, m: int) -> None:
    """Raises `UserError` where a mirrored decoder of an MLP of hidden width `m` cannot have `d_sae` latents."""
    if d_sae != 2 * m:
        raise bad_value("d_sae", d_sae, f"init=mirror has 2m={2 * m} latents, m={m} the MLP's hidden width")


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


INITS: Mapping[str, Initializer] = {"uniform": uniform, "mirror": mirror}
ENCODERS: Mapping[str, Encoder] = {"tied": tied, "gain": gain, "dual": dual}


def check_init(config: InitConfig) -> None:
    """Raises `UserError` for a start that does not exist."""
    if config.name not in INITS:
        raise bad_value("init.name", config.name, f"known are {', '.join(INITS)}")
    if config.encoder not in ENCODERS:
        raise bad_value("init.encoder", config.encoder, f"known are {', '.join(ENCODERS)}")
    if not math.isfinite(config.threshold):
        raise bad_value("init.threshold", config.threshold, "use a finite number (0.001 is usual)")


def build(config: InitConfig, sources: Sources, *, seed: int, scale: float, bias: Bias) -> JumpReLUSAE:
    """The SAE at step 0. `seed` feeds a generator of its own, so nothing else can shift what is drawn."""
    check_init(config)
    generator = torch.Generator().manual_seed(seed)
    sae = JumpReLUSAE(sources.d_in, sources.d_sae, bias=bias, scale=scale)
    with torch.no_grad():
        W_dec = INITS[config.name](sources, config, generator)
        if W_dec.shape[1] != sources.d_in:
            raise UserError(
                f"init={config.name}: rows of width {W_dec.shape[1]} for activations of width {sources.d_in}; "
                "the cache and the model must belong together"
            )
        sae.W_dec.copy_(W_dec)
        sae.W_enc.copy_(ENCODERS[config.encoder](W_dec, sources))
        sae.threshold.fill_(config.threshold)
    return sae


def unit_rows(W: Tensor) -> Tensor:
    """Rows scaled to norm 1."""
    return W / W.norm(dim=1, keepdim=True)
