"""What W_enc is where a start leaves it open (`init.encoder`)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from saemd.sae.starts.base import Sources


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
