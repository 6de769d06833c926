"""Save and load SAEs in SAELens's form: `sae_weights.safetensors` and `cfg.json`, for raw activations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from saemd.errors import UserError
from saemd.sae.model import JumpReLUSAE

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"


def save_sae(sae: JumpReLUSAE, folder: Path | str, metadata: dict[str, Any] | None = None) -> None:
    """Write the folded SAE (`JumpReLUSAE.folded`) so that `sae_lens.SAE.load_from_disk(folder)` reads it.

    `metadata`: SAELens's field of that name, as `model_name`, `hook_name` and whatever else helps to use the SAE.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folded = sae.folded().cpu()
    weights = {name: tensor.detach().contiguous() for name, tensor in folded.state_dict().items() if name != "scale"}
    _replace(folder / WEIGHTS, lambda path: save_file(weights, path))
    _replace(folder / CONFIG, lambda path: path.write_text(config_text(sae, metadata)))


def config_text(sae: JumpReLUSAE, metadata: dict[str, Any] | None = None) -> str:
    """`cfg.json` for an SAE's folded weights.

    Without a `sae_lens_version` of 6 or above SAELens takes the file for an older form, whose metadata it drops.
    """
    config = {
        "architecture": "jumprelu",
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", "sae_lens_training_version": None, **(metadata or {})},
    }
    return json.dumps(config, indent=2) + "\n"


def load_sae(path: Path | str) -> JumpReLUSAE:
    """The SAE saved in the folder `path`. Raises `UserError` where there is none or its shapes do not fit together."""
    folder = Path(path)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"path={folder}: no {WEIGHTS} here; name a finished run's folder")
    weights = load_file(folder / WEIGHTS)
    missing = {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"} - weights.keys()
    if missing:
        raise UserError(f"path={folder}: {WEIGHTS} lacks {', '.join(sorted(missing))}; this is not a JumpReLU SAE")
    d_in, d_sae = weights["W_enc"].shape
    sae = JumpReLUSAE(d_in, d_sae)
    for name, tensor in weights.items():
        own = getattr(sae, name, None)
        if own is None or own.shape != tensor.shape:
            raise UserError(
                f"path={folder}: {name} of shape {tuple(tensor.shape)} does not fit d_in={d_in}, d_sae={d_sae}"
            )
    sae.load_state_dict({**weights, "scale": torch.tensor(1.0)})
    return sae


def _replace(path: Path, write: Any) -> None:
    aside = path.with_name(f".{path.name}.partial")
    write(aside)
    os.replace(aside, path)
