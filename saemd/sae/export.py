"""Save SAEs in SAELens's form, `sae_weights.safetensors` and `cfg.json`, for raw activations; load that and others."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saemd.errors import UserError
from saemd.files import DamagedFileError, one_line, read_json, read_tensors, replacing, save_tensors, write_text
from saemd.sae.base import SAE
from saemd.sae.formats import locate, read
from saemd.sae.registry import LOADED_AS

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"  # SAELens's names
METRICS = "metrics.json"  # which only runs have


def save_sae(sae: SAE, folder: Path | str, metadata: dict[str, Any] | None = None) -> None:
    """Write the folded SAE (`SAE.folded`) so that `sae_lens.SAE.load_from_disk(folder)` reads it.

    `metadata`: SAELens's field of that name, as `model_name`, `hook_name` and whatever else helps to use the SAE.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folded = sae.folded().cpu()
    with replacing(folder / WEIGHTS) as aside:
        save_tensors(dict(folded.named_parameters()), aside, _decisive(folded))
    write_text(folder / CONFIG, config_text(folded, metadata))


def config_text(folded: SAE, metadata: dict[str, Any] | None = None) -> str:
    """`cfg.json` of a folded SAE.

    Without a `sae_lens_version` of 6 or above SAELens takes the file for an older form, whose metadata it drops.
    """
    config = {
        "architecture": folded.saelens,
        "d_in": folded.d_in,
        "d_sae": folded.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **folded.saelens_config(),
        "metadata": {"sae_lens_version": "6.0.0", "sae_lens_training_version": None, **(metadata or {})},
    }
    return json.dumps(config, indent=2) + "\n"


def load_sae(path: Path | str) -> SAE:
    """The SAE saved in the folder `path`, by this project or by SAELens, dictionary_learning, sparsify or Gemma Scope.

    `path` may be a hub address, as `hf://<org>/<repository>/<folder>`. Latents and reconstructions of raw activations
    are those of the library that saved it; see docs/interoperability.md. Raises `UserError` where there is no SAE, its
    files do not fit together, or no architecture here computes its latents.

    NaN and infinite weights only get a warning here: one may want to look at what diverged. `load_finite` refuses them.
    """
    sae = _load(locate(path))
    if names := not_finite(sae.state_dict()):
        warnings.warn(f"{path}: {names} NaN or infinite in places; this SAE has diverged", stacklevel=2)
    return sae


def load_finite(path: Path | str) -> SAE:
    """As `load_sae`, for those who compute or hand on: a `UserError` also where weights are NaN or infinite."""
    sae = _load(locate(path))
    if names := not_finite(sae.state_dict()):
        remedy = "remove this folder and train it again, with a lower recipe.lr"
        raise UserError(f"{path}: {names} NaN or infinite in places; {remedy}")
    return sae


def not_finite(weights: Mapping[str, Tensor]) -> str:
    """Which weights hold NaN or infinity, as "W_enc is" or "W_enc and W_dec are"; empty where none does."""
    names = [name for name, value in weights.items() if not value.isfinite().all()]
    return " and ".join(names) + (" is" if len(names) == 1 else " are") if names else ""


def sae_shape(folder: Path) -> tuple[int, int]:
    """d_in and d_sae of the SAE saved in `folder`, whose files must fit together. Of a run only the header is read.

    Raises `UserError`, of a damaged file `DamagedFileError`.
    """
    if not _is_native(folder):
        d_in, d_sae = read(folder).W_enc.shape
        return d_in, d_sae
    sae, _ = _empty(folder)
    return sae.d_in, sae.d_sae


def matrices(path: Path | str) -> tuple[Tensor, Tensor]:
    """W_enc [D, F] and W_dec [F, D], float32, of an SAE in any form; also where its latents cannot be computed here.

    Raises `UserError`.
    """
    folder = locate(path)
    if not _is_native(folder):
        found = read(folder)
        return found.W_enc, found.W_dec
    saved = read_sae_weights(folder)
    return saved["W_enc"].float(), saved["W_dec"].float()


def _is_native(folder: Path) -> bool:
    """Is it in the form that `save_sae` writes? SAELens's own SAEs may say the same in another way."""
    if (folder / METRICS).exists():  # a run
        return True
    if not (folder / WEIGHTS).exists() or not (folder / CONFIG).exists():
        return (folder / WEIGHTS).exists()  # weights alone are a JumpReLU SAE's
    config = read_config(folder)
    architecture = LOADED_AS.get(str(config.get("architecture", "jumprelu")))
    if architecture is None or "metadata" not in config:
        return False
    own = {"apply_b_dec_to_input": False, "normalize_activations": "none", **architecture(1, 1).saelens_config()}
    own.pop("k", None)
    was_trained_there = (config["metadata"] or {}).get("sae_lens_training_version")
    defaults = {"apply_b_dec_to_input": True, "normalize_activations": "none", "rescale_acts_by_decoder_norm": False}
    return not was_trained_there and all(config.get(key, defaults[key]) == value for key, value in own.items())


def _empty(folder: Path) -> tuple[SAE, dict[str, Any]]:
    """The SAE that `folder` holds, on torch's meta device (names and shapes without values), and its `cfg.json`."""
    path, remedy = folder / WEIGHTS, _remedy(folder)
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise DamagedFileError(path, f"cannot be read ({one_line(error)})", remedy) from error
    config = read_config(folder) if (folder / CONFIG).exists() else {}  # weights alone are a JumpReLU SAE's
    architecture = config.get("architecture", "jumprelu")
    if architecture not in LOADED_AS:
        what = f"says architecture={architecture}; known are {', '.join(LOADED_AS)}"
        raise DamagedFileError(folder / CONFIG, what, remedy)
    d_in, d_sae = shapes["W_enc"] if len(shapes.get("W_enc", ())) == 2 else (0, 0)
    try:
        with torch.device("meta"):
            sae = LOADED_AS[architecture].from_saelens(d_in, d_sae, config)
    except KeyError as error:
        raise DamagedFileError(folder / CONFIG, f"misses {error.args[0]}", remedy) from error
    expected = {name: tuple(parameter.shape) for name, parameter in sae.named_parameters()}
    if missing := expected.keys() - shapes.keys():
        raise DamagedFileError(path, f"lacks {', '.join(sorted(missing))}, so it is no {architecture} SAE", remedy)
    for name, shape in shapes.items():
        if 0 in shape or shape != expected.get(name):
            raise DamagedFileError(path, f"{name} of shape {shape} does not fit d_in={d_in}, d_sae={d_sae}", remedy)
    for key, value in (("d_in", d_in), ("d_sae", d_sae)):
        if config and config.get(key) != value:
            what = f"says {key}={config.get(key)}, but {WEIGHTS} has {value}"
            raise DamagedFileError(folder / CONFIG, what, remedy)
    return sae, config


def read_sae_weights(folder: Path) -> dict[str, Tensor]:
    """The weights by name. Raises `DamagedFileError` for damaged files, and for files that do not fit together."""
    sae, _ = _empty(folder)
    return read_tensors(folder / WEIGHTS, _remedy(folder), _decisive(sae))


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `cfg.json`. Raises `DamagedFileError`."""
    remedy = _remedy(folder)
    config = read_json(folder / CONFIG, remedy)
    if not isinstance(config, dict) or not isinstance(config.get("metadata") or {}, dict):
        raise DamagedFileError(folder / CONFIG, "does not hold an SAE's keys and values", remedy)
    return config


def _load(folder: Path) -> SAE:
    if not _is_native(folder):
        return read(folder).sae()
    empty, config = _empty(folder)
    weights = read_sae_weights(folder)
    sae = type(empty).from_saelens(empty.d_in, empty.d_sae, config)
    sae.load_state_dict(weights, strict=False)  # their names and shapes have been checked, and buffers stay as they are
    return sae


def _decisive(sae: SAE) -> str:
    """What of `cfg.json` decides how the weights are used; their checksum covers it."""
    return json.dumps([sae.saelens, sae.saelens_config()], sort_keys=True)


def _remedy(folder: Path) -> str:
    """How to get the files again: a run's command writes them, and for an SAE from elsewhere nothing does."""
    metrics = folder / METRICS
    if metrics.exists():
        return f"remove {metrics}, and the command that trained this run measures it again"
    return "save it again, or fetch another copy"
