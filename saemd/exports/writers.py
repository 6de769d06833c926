"""One writer per format: it fills a folder with the files of one run's SAE, in the names of the library."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from saemd.activations.config import HOOKS, RESIDUAL
from saemd.errors import bad_value
from saemd.files import save_torch
from saemd.runs import WEIGHTS, read_config
from saemd.sae import SAE
from saemd.sae.export import CONFIG, config_text
from saemd.sae.export import read_config as read_sae_config
from saemd.sae.formats.dictionary_learning import weights_of
from saemd.sae.formats.sparsify import NAMES

Writer = Callable[[Path, SAE, Path], None]  # the run's folder, its SAE, the folder to fill


def write_saelens(run: Path, sae: SAE, folder: Path) -> None:
    """`sae_lens.SAE.load_from_disk(folder)`: a run is saved in this form; in older ones cfg.json lacks the version."""
    shutil.copyfile(run / WEIGHTS, folder / WEIGHTS)
    metadata = read_sae_config(run).get("metadata")
    (folder / CONFIG).write_text(config_text(sae, metadata))


def write_dictionary_learning(run: Path, sae: SAE, folder: Path) -> None:
    """For `dictionary_learning.utils.load_dictionary(folder, device)`.

    config.json names things as dictionary_learning's trainer and buffer do; what has no counterpart here is left out.
    """
    if sae.dictionary_learning is None:
        raise bad_value("format", "dictionary_learning", f"it has no class for {run}'s architecture; use saelens")
    weights, config = weights_of(sae), read_config(run)["config"]
    trainer = {
        "dict_class": sae.dictionary_learning,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "lm_name": config["lm"]["name"],
        "layer": config["layer"],
        "submodule_name": f"{HOOKS[config['activations'].get('hook', RESIDUAL)]}_layer_{config['layer']}",
        "target_l0": config["l0"],
        "seed": config["seed"],
        **({"k": int(weights["k"])} if "k" in weights else {}),  # which load_dictionary asks for
    }
    buffer = {"d_submodule": sae.d_in, "io": "out", "ctx_len": config["activations"]["context_length"]}
    save_torch(_contiguous(weights), folder / "ae.pt")
    _write_json({"trainer": trainer, "buffer": buffer}, folder / "config.json")


def write_sparsify(run: Path, sae: SAE, folder: Path) -> None:
    """`sparsify.SparseCoder.load_from_disk(folder)`. Raises `UserError` for other architectures than TopK."""
    if sae.saelens != "topk":
        raise bad_value("format", "sparsify", f"it knows TopK alone, and {run} is {sae.saelens}; use saelens")
    own = {theirs: sae.get_parameter(ours) for theirs, ours in NAMES.items()}
    weights = {**own, "encoder.weight": sae.W_enc.T}
    save_file(_contiguous(weights), folder / "sae.safetensors")
    config = {"activation": "topk", "expansion_factor": max(1, sae.d_sae // sae.d_in), "normalize_decoder": True}
    config |= {"num_latents": sae.d_sae, "k": int(sae.target_l0), "multi_topk": False, "skip_connection": False}
    _write_json({**config, "transcode": False, "d_in": sae.d_in}, folder / CONFIG)


FORMATS: Mapping[str, Writer] = {
    "saelens": write_saelens,
    "dictionary_learning": write_dictionary_learning,
    "sparsify": write_sparsify,
    "hub": write_saelens,  # which loads this form from the hub too
}


def _contiguous(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in weights.items()}


def _write_json(value: Any, path: Path) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
