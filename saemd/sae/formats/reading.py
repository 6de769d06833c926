"""What a reader of another library's files gives: weights under this project's names, and how latents come of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saemd.errors import UserError
from saemd.files import DamagedFileError, one_line
from saemd.sae.base import SAE
from saemd.sae.gated import GatedSAE
from saemd.sae.jumprelu import JumpReLUSAE
from saemd.sae.topk import TopKSAE

REMEDY = "save it again, or fetch another copy"
ACTIVATIONS = ("relu", "jumprelu", "topk", "gated")  # that `Reading.sae` computes exactly


@dataclass(frozen=True)
class Reading:
    """An SAE from elsewhere. All tensors are float32.

    With y = x − b_dec where `subtracts_b_dec`, else y = x: `relu` is ReLU(y W_enc + b_enc), `jumprelu` the same where
    it exceeds `threshold`, `topk` the k largest of it, and `gated` has `b_gate`, `b_mag`, `r_mag`, as in `GatedSAE`.
    """

    form: str  # the library, as "SAELens"
    file: Path  # of the weights
    activation: str  # one of ACTIVATIONS, or another library's name
    W_enc: Tensor  # [D, F]
    W_dec: Tensor  # [F, D]
    b_dec: Tensor  # [D]
    others: Mapping[str, Tensor]  # b_enc, threshold, b_gate, b_mag, r_mag: each [F]
    subtracts_b_dec: bool
    k: int = 0
    inexact: str = ""  # why no architecture here computes its latents; empty where one does

    def sae(self) -> SAE:
        """The SAE with the same latents and reconstructions of raw activations.

        Raises `UserError` where no architecture here gives them.
        """
        inexact = self.inexact or ("" if self.activation in ACTIVATIONS else f"activation {self.activation}")
        if inexact:
            remedy = "no architecture here computes its latents; saemd stability compares its directions"
            raise UserError(f"{self.file}: {self.form}, {inexact}; {remedy}")
        others, shift_F = dict(self.others), torch.zeros(self.W_enc.shape[1])
        is_subtracted = self.activation in ("topk", "gated")  # b_dec, by the architectures here
        if is_subtracted != self.subtracts_b_dec:
            shift_F = self.b_dec @ self.W_enc * (1 if is_subtracted else -1)
        sae: SAE
        if self.activation == "gated":
            sae = GatedSAE(*self.W_enc.shape)
            others["b_gate"] = others["b_gate"] + shift_F
            others["b_mag"] = others["b_mag"] + others["r_mag"].exp() * shift_F
        else:
            others["b_enc"] = others["b_enc"] + shift_F
            if self.activation == "topk":
                sae = TopKSAE(*self.W_enc.shape, target_l0=self.k)
            else:
                sae = JumpReLUSAE(*self.W_enc.shape)
                # ReLU follows in all libraries, so a threshold below 0 acts as 0.
                others["threshold"] = others.get("threshold", torch.zeros_like(shift_F)).clamp(min=0)
        sae.load_state_dict({"W_enc": self.W_enc, "W_dec": self.W_dec, "b_dec": self.b_dec, **others}, strict=False)
        return sae


def reading(
    form: str, file: Path, activation: str, weights: Mapping[str, Tensor], subtracts_b_dec: bool, *, k: int = 0,
    inexact: str = "", scales_by_norm: bool = False,
) -> Reading:  # fmt: skip
    """A `Reading` of `weights` under this project's names. Raises `DamagedFileError` where one is missing or misshapen.

    `scales_by_norm`: the library multiplies latents by the norm of their decoder row and divides the row by it.
    """
    weights = {name: tensor.detach().float() for name, tensor in weights.items()}
    vectors = ["b_gate", "b_mag", "r_mag"] if activation == "gated" else ["b_enc"]
    vectors += ["threshold"] if activation == "jumprelu" else []
    require(file, weights, ["W_enc", "W_dec", "b_dec", *vectors])
    d_in, d_sae = weights["W_enc"].shape if weights["W_enc"].dim() == 2 else (0, 0)
    expected = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,), **dict.fromkeys(vectors, (d_sae,))}
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape or 0 in shape:
            found = tuple(weights[name].shape)
            raise DamagedFileError(file, f"{name} of shape {found} does not fit d_in={d_in}, d_sae={d_sae}", REMEDY)
    if activation == "topk" and not 1 <= k <= d_sae:
        raise DamagedFileError(file, f"k={k} does not fit d_sae={d_sae}", REMEDY)
    if scales_by_norm and "b_enc" in vectors:
        norm_F = weights["W_dec"].norm(dim=1).clamp(min=1e-8)
        weights |= {"W_enc": weights["W_enc"] * norm_F, "W_dec": weights["W_dec"] / norm_F[:, None]}
        weights["b_enc"] = weights["b_enc"] * norm_F
    matrices = {name: weights[name].contiguous() for name in ("W_enc", "W_dec", "b_dec")}
    others = {name: weights[name] for name in vectors}
    return Reading(
        form, file, activation, **matrices, others=others, subtracts_b_dec=subtracts_b_dec, k=k, inexact=inexact
    )


def require(file: Path, found: Iterable[str], names: Iterable[str]) -> None:
    """Raise `DamagedFileError` where one of `names` is missing."""
    if missing := sorted(set(names) - set(found)):
        raise DamagedFileError(file, f"lacks {', '.join(missing)}", REMEDY)


def refused(file: Path, form: str, what: str) -> UserError:
    """The error for what is no sparse autoencoder of one input."""
    return UserError(f"{file}: {form}, {what}: only SAEs that reconstruct their own input are read; name another")


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Its tensors by name. Raises `DamagedFileError`."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DamagedFileError(file, f"cannot be read ({one_line(error)})", REMEDY) from error
