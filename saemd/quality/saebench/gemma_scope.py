"""Gemma Scope's JumpReLU SAEs, measured beside the runs (arXiv 2408.05147; figure 3 of the paper).

`params.npz` holds W_enc [D, F], W_dec [F, D], b_enc [F], b_dec [D], threshold [F] for raw activations. The SAEs were
trained on 4 B tokens at width 16,384, so they are no baseline of equal budget. Imported in both environments.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
import torch

from saemd.errors import bad_value
from saemd.files import DamagedFileError, read_npz
from saemd.progress import lines
from saemd.quality.score import Subject
from saemd.sae import JumpReLUSAE

REPOSITORY = "google/gemma-scope-2b-pt-res"
LM = "google/gemma-2-2b"
LAYER = 12
L0S = (22, 41, 82, 176, 445)  # of layer 12 at width 16,384; 82 is the canonical one
PARAMETERS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def member(l0: int, layer: int = LAYER) -> str:
    """The file's path in the repository and in a local copy of it."""
    return f"layer_{layer}/width_16k/average_l0_{l0}/params.npz"


def locate(l0: int, folder: str = "", layer: int = LAYER) -> Path:
    """The file in a local copy of the repository (`folder`), or fetched from the hub where `folder` is empty.

    Raises `UserError` where it cannot be had.
    """
    name = member(l0, layer)
    if folder:
        path = Path(folder).expanduser() / name
        if not path.is_file():
            raise bad_value("gemma_scope", folder, f"holds no {name}; name a copy of {REPOSITORY}")
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        with lines(f"fetching {REPOSITORY}'s {name} from the hub", total=None):
            return Path(hf_hub_download(REPOSITORY, name))
    except LocalEntryNotFoundError as error:
        remedy = f"the hub cannot be reached ({type(error).__name__}); name a local copy of {REPOSITORY}"
        raise bad_value("gemma_scope", name, remedy) from error
    except EntryNotFoundError as error:
        raise bad_value("gemma_scope", name, f"{REPOSITORY} has no such file; layer 12 has L0 {L0S}") from error
    except GatedRepoError as error:
        remedy = f"gated: accept its licence on the hub's page of {REPOSITORY} and set HF_TOKEN"
        raise bad_value("gemma_scope", name, remedy) from error
    except (HfHubHTTPError, OSError) as error:
        remedy = f"the hub did not give it ({type(error).__name__}); name a local copy of {REPOSITORY}"
        raise bad_value("gemma_scope", name, remedy) from error


def layer_of(path: Path) -> int:
    """The layer in the name of its folder."""
    layer = re.fullmatch(r"layer_(\d+)", path.parents[2].name)
    if layer is None:
        raise bad_value("gemma_scope", path, "name a file below layer_<n>/width_<w>/average_l0_<L0>")
    return int(layer[1])


def subjects(results: Path, folder: str = "", l0s: tuple[int, ...] = L0S, layer: int = LAYER) -> list[Subject]:
    """These SAEs as subjects, from a local copy of the repository or the hub; their scores go to `results`."""
    files = {l0: locate(l0, folder, layer) for l0 in l0s}
    return [
        Subject(
            init="gemma-scope",
            l0=l0,
            seed=None,
            measured_l0=l0,  # the published average, in the name of the folder
            d_in=read_params(path).d_in,
            folder=results / f"l0={l0}",
            weights=path,
            load=partial(read_params, path),
        )
        for l0, path in files.items()
    ]


def read_params(path: Path) -> JumpReLUSAE:
    """The SAE in `params.npz`, read without pickle, decoder rows of unit norm. Raises `UserError` for another file."""
    remedy = "name a file of Gemma Scope's JumpReLU SAEs, or fetch it again"
    try:
        arrays = read_npz(path, PARAMETERS, remedy)
    except DamagedFileError as error:
        raise bad_value("gemma_scope", path, f"{error.what}; {remedy}") from error
    weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in zip(PARAMETERS, arrays, strict=True)}
    if weights["W_enc"].ndim != 2:
        raise bad_value("gemma_scope", path, f"W_enc of shape {tuple(weights['W_enc'].shape)}; [d_in, d_sae] is wanted")
    d_in, d_sae = weights["W_enc"].shape
    sae = JumpReLUSAE(d_in, d_sae)
    for name, tensor in weights.items():
        if (own := getattr(sae, name)).shape != tensor.shape:
            raise bad_value("gemma_scope", path, f"{name} has shape {tuple(tensor.shape)}, not {tuple(own.shape)}")
    sae.load_state_dict({**weights, "scale": torch.tensor(1.0)})
    return sae.folded()
