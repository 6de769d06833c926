"""SAELens's folders: `sae_weights.safetensors` and `cfg.json`, of version 6 and of those before."""

from pathlib import Path
from typing import Any

import torch

from saemd.files import DamagedFileError, read_json
from saemd.sae.formats.reading import REMEDY, Reading, read_safetensors, reading, refused, require

FORM, CONFIG = "SAELens", "cfg.json"
ARCHITECTURES = {  # what gives the latents; batchtopk and matryoshka_batchtopk are those of checkpoints
    "standard": "relu", "jumprelu": "jumprelu", "topk": "topk", "gated": "gated", "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu", "abstopk": "abstopk",
}  # fmt: skip
RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}  # in versions before 6


def read(file: Path) -> Reading:
    """As `sae_lens.SAE.load_from_disk` of version 6 reads it. Raises `UserError`."""
    path = file.parent / CONFIG
    config = read_json(path, REMEDY)
    if not isinstance(config, dict) or not isinstance(config.get("metadata") or {}, dict):
        raise DamagedFileError(path, "does not hold an SAE's keys and values", REMEDY)
    config = {RENAMED.get(str(key), str(key)): value for key, value in config.items()}
    architecture = _architecture(config)
    if architecture not in ARCHITECTURES:
        raise refused(path, FORM, f"architecture={architecture} (known are {', '.join(ARCHITECTURES)})")
    weights = read_safetensors(file)
    if "log_threshold" in weights:
        weights["threshold"] = weights["log_threshold"].float().exp()
    if "topk_threshold" in weights:  # in units of the latents times the norms of their decoder rows, if rescaled
        require(file, weights, ["W_enc"])
        weights["threshold"] = weights["topk_threshold"].expand(weights["W_enc"].shape[-1])
    scaling = weights.get("scaling_factor", weights.get("finetuning_scaling_factor"))
    if scaling is not None:
        require(file, weights, ["W_dec"])
        weights["W_dec"] = weights["W_dec"] * scaling[:, None]
    if architecture == "standard" and "b_enc" not in weights and "W_enc" in weights:
        weights["b_enc"] = torch.zeros(weights["W_enc"].shape[-1])
    found = reading(
        FORM, file, ARCHITECTURES[architecture], weights, bool(config.get("apply_b_dec_to_input", True)),
        k=_k(config, path) if architecture == "topk" else 0, inexact=_inexact(config),
        scales_by_norm=bool(config.get("rescale_acts_by_decoder_norm")),
    )  # fmt: skip
    for key, value in zip(("d_in", "d_sae"), found.W_enc.shape, strict=True):
        if config.get(key, value) != value:
            raise DamagedFileError(path, f"says {key}={config.get(key)}, but {file.name} has {value}", REMEDY)
    return found


def _architecture(config: dict[str, Any]) -> str:
    arguments = config.get("activation_fn_kwargs") or {}
    if config.get("activation_fn") == "topk" and "k" in arguments:
        config["k"] = arguments["k"]
        return "topk"
    return str(config.get("architecture", "standard"))


def _k(config: dict[str, Any], path: Path) -> int:
    if not isinstance(config.get("k"), int | float):
        raise DamagedFileError(path, f"has k={config.get('k')} where a number is due", REMEDY)
    return int(config["k"])


def _inexact(config: dict[str, Any]) -> str:
    """The setting whose effect on latents is not in the weights; empty where there is none."""
    normalised = config.get("normalize_activations")
    if normalised not in (None, False, "none"):
        return f"normalize_activations={normalised}"
    function = config.get("activation_fn", "relu")
    return "" if function in ("relu", "topk") else f"activation_fn={function}"
