"""dictionary_learning's folders: `ae.pt`, a state dict, and `config.json`, which names its class."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saemd.errors import UserError
from saemd.files import DamagedFileError, one_line, read_json
from saemd.sae.base import SAE
from saemd.sae.formats.reading import REMEDY, Reading, reading, refused

FORM, CONFIG = "dictionary_learning", "config.json"
LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}  # both matrices transposed
PLAIN = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
# The activation, the names of its weights, and whether b_dec is subtracted from the input.
CLASSES: dict[str, tuple[str, dict[str, str], bool]] = {
    "AutoEncoder": ("relu", {**LINEAR, "bias": "b_dec"}, True),
    "AutoEncoderNew": ("relu", {**LINEAR, "decoder.bias": "b_dec"}, False),
    "GatedAutoEncoder": (
        "gated",
        {
            "encoder.weight": "W_enc", "r_mag": "r_mag", "gate_bias": "b_gate", "mag_bias": "b_mag",
            "decoder.weight": "W_dec", "decoder_bias": "b_dec",
        },
        True,
    ),
    "AutoEncoderTopK": ("topk", {**LINEAR, "b_dec": "b_dec"}, True),
    "BatchTopKSAE": ("jumprelu", {**LINEAR, "b_dec": "b_dec", "threshold": "threshold"}, True),
    "MatryoshkaBatchTopKSAE": ("jumprelu", PLAIN, True),
    "JumpReluAutoEncoder": ("jumprelu", PLAIN, False),
}  # fmt: skip


def read(file: Path) -> Reading:
    """As `dictionary_learning.utils.load_dictionary` reads it. Nothing of the pickle runs. Raises `UserError`."""
    weights = _load(file)
    trainer = _trainer(file.parent / CONFIG)
    name = trainer.get("dict_class") or _class_of(weights)
    if name not in CLASSES:
        raise refused(file, FORM, f"dict_class={name} (known are {', '.join(CLASSES)})")
    activation, names, subtracts_b_dec = CLASSES[name]
    ours = {
        names[key]: value.T if value.dim() == 2 and "." in key else value
        for key, value in weights.items()
        if key in names
    }
    if "threshold" in ours and ours["threshold"].dim() == 0 and "W_enc" in ours:  # BatchTopK's, one for all latents
        ours["threshold"] = ours["threshold"].expand(ours["W_enc"].shape[-1])
    k = weights.get("k", trainer.get("k", 0))
    k = int(k) if isinstance(k, int | float) or (isinstance(k, Tensor) and k.numel() == 1) else 0
    # Its AutoEncoder takes the decoder to unit norm when it is loaded.
    return reading(FORM, file, activation, ours, subtracts_b_dec, k=k, scales_by_norm=name == "AutoEncoder")


def weights_of(sae: SAE) -> dict[str, Tensor]:
    """The weights of a folded SAE, under the names of the class `sae.dictionary_learning`."""
    activation, names, _ = CLASSES[str(sae.dictionary_learning)]
    own = {theirs: sae.get_parameter(ours) for theirs, ours in names.items()}
    weights: dict[str, Tensor] = {name: W.T if W.dim() == 2 and "." in name else W for name, W in own.items()}
    if activation == "topk":
        weights |= {"k": torch.tensor(int(sae.target_l0), dtype=torch.int), "threshold": torch.tensor(-1.0)}
    return weights


def _load(file: Path) -> dict[str, Tensor]:
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = "is no file of tensors alone, and anything else could run code"
        raise DamagedFileError(file, what, "save its state_dict() with torch.save") from error
    except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise DamagedFileError(file, f"cannot be read ({one_line(error)})", REMEDY) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DamagedFileError(file, "is no state dict of tensors", REMEDY)
    return found


def _trainer(path: Path) -> dict[str, Any]:
    """The part `trainer` of `config.json`; empty without the file."""
    if not path.exists():
        return {}
    config = read_json(path, REMEDY)
    trainer = config.get("trainer") if isinstance(config, dict) else None
    if not isinstance(trainer, dict):
        raise DamagedFileError(path, "has no trainer", REMEDY)
    return trainer


def _class_of(weights: dict[str, Tensor]) -> str:
    """The class by the weights alone."""
    if {"encoder.weight", "k", "b_dec"} <= weights.keys():
        remedy = "AutoEncoderTopK and BatchTopKSAE have the same weights; put config.json beside it"
        raise UserError(f"{FORM}: {CONFIG} is missing; {remedy}")
    if "group_sizes" in weights:
        return "MatryoshkaBatchTopKSAE"
    fits = [name for name, (_, names, _) in CLASSES.items() if set(names) - {"encoder.bias"} <= weights.keys()]
    return fits[-1] if fits else f"unknown, with {', '.join(sorted(weights))}"
