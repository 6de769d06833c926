"""Gemma Scope's `params.npz`, and Gemma Scope 2's `params.safetensors`: JumpReLU SAEs."""

from pathlib import Path

import torch
from torch import Tensor

from saemd.files import read_npz
from saemd.sae.formats.reading import REMEDY, Reading, read_safetensors, reading, refused

FORM = "Gemma Scope"
NAMES = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def read(file: Path) -> Reading:
    """z = JumpReLU(x W_enc + b_enc), as its authors publish. Raises `UserError`."""
    weights: dict[str, Tensor]
    if file.suffix == ".npz":
        arrays = read_npz(file, NAMES, REMEDY)
        weights = {name: torch.from_numpy(array) for name, array in zip(NAMES, arrays, strict=True)}
    else:
        weights = {name.replace("w_", "W_"): value for name, value in read_safetensors(file).items()}
    if "affine_skip_connection" in weights:
        raise refused(file, FORM, "a skip connection")
    return reading(FORM, file, "jumprelu", weights, False)
