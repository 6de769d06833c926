"""A language model's files: in a local folder, on the hub (where single files are fetched), or in packages.

Every failure is one line that says what to do (`UserError`).
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from saemd.errors import bad_value
from saemd.lm.config import LMConfig
from saemd.lm.packaged import converted
from saemd.progress import lines

SINGLE, SHARDED = "model.safetensors", "model.safetensors.index.json"
PICKLED_WEIGHTS = "pytorch_model.bin", "pytorch_model.bin.index.json"
CONFIG = ["config.json"]
# By name: repositories also hold the same weights in other formats (consolidated, onnx, flax), twice the download.
EVERYTHING = [
    *["config.json", "generation_config.json", SINGLE, SHARDED],
    *["model-*.safetensors", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt"],
    *["*.model", "chat_template*"],
]
PICKLED = [name for name in EVERYTHING if "safetensors" not in name] + ["pytorch_model*"]
_LABEL_CHARACTERS = 80


def local_folder(config: LMConfig) -> Path | None:
    """The folder that `lm.name` names; None for packages and the hub. Raises `UserError` for one without a model."""
    if config.packages:
        return None
    try:
        local = Path(config.name).expanduser()
        if (local / "config.json").is_file():
            return local
        is_path = local.exists() or config.name.startswith((".", "/", "~"))
    except (OSError, RuntimeError) as error:  # a name too long, a folder of another user's, an unknown user's home
        raise bad_value(
            "lm.name", config.name, f"not to be opened ({error}); name a saved transformers model"
        ) from error
    if local.is_file():
        raise bad_value("lm.name", config.name, "a file; name the folder of a saved transformers model")
    if is_path:
        raise bad_value("lm.name", config.name, "this folder has no config.json; name a saved transformers model")
    return None


def resolve(config: LMConfig, cache_root: Path, files: Sequence[str] = EVERYTHING) -> Path:
    """A local folder with the model's `files` (names or patterns); missing ones are fetched from the hub.

    A packaged model is converted first, as a whole. Raises `UserError` for a model that cannot be found or fetched.
    """
    local = local_folder(config)
    if config.revision is not None and (config.packages or local):
        form = "a local folder" if local else "a packaged model, pinned by its checksums"
        raise bad_value("lm.revision", config.revision, f"{config.name} is {form} and has no revisions; leave it out")
    if config.packages:
        return converted(config, cache_root)
    return local or _from_hub(config, files)


def label(name: str) -> str:
    """A model's name as a part of a folder's name: a whole hub id, or the last part of a path."""
    if name.startswith((".", "/", "~")):
        name = Path(name).absolute().name
    return re.sub(r"[^A-Za-z0-9._]+", "-", name)[:_LABEL_CHARACTERS].strip("-.") or "model"


def _from_hub(config: LMConfig, files: Sequence[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        with lines(f"fetching {config.name} from the hub", total=None):
            return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=list(files)))
    except errors.GatedRepoError as error:
        remedy = (
            f"gated: accept its licence on the hub's page of {config.name} and set HF_TOKEN to your token; or use a "
            "local folder with lm=hf lm.name=<folder>"
        )
        raise bad_value("lm.name", config.name, remedy) from error
    except errors.RevisionNotFoundError as error:
        raise bad_value("lm.revision", config.revision, f"{config.name} has no such branch, tag or commit") from error
    except errors.HFValidationError as error:
        raise bad_value("lm.name", config.name, "neither a local folder nor a hub id (owner/name)") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        remedy = (
            f"the hub did not give it ({type(error).__name__}): check the name, the network and, for a gated model, "
            "that its licence is accepted and HF_TOKEN is set; or use a local folder with lm=hf lm.name=<folder>"
        )
        raise bad_value("lm.name", config.name, remedy) from error


@contextmanager
def opened(config: LMConfig, path: Path) -> Iterator[Any]:
    """An open safetensors file. Raises `UserError` where it is missing, truncated, or no safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise bad_value("lm.name", config.name, f"{path} cannot be read ({error}); copy the file anew") from error


def weight_files(config: LMConfig, folder: Path) -> dict[str, str]:
    """Weight name → the safetensors file in `folder` that holds it, of one file or a sharded checkpoint.

    If both exist, transformers reads the one file. Raises `UserError` where neither can be read.
    """
    if not (folder / SINGLE).is_file() and (folder / SHARDED).is_file():
        return _listed(config, folder / SHARDED)
    with opened(config, folder / SINGLE) as file:
        return dict.fromkeys(file.keys(), SINGLE)


def weight_paths(config: LMConfig, folder: Path) -> list[Path]:
    """The files that transformers reads weights from, with the index of shards; safetensors before pickles.

    Raises `UserError` for a folder without weights, or without one of the shards.
    """
    for single, index in ((SINGLE, SHARDED), PICKLED_WEIGHTS):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            shards = [folder / name for name in sorted(set(_listed(config, folder / index).values()))]
            if missing := [path for path in shards if not path.is_file()]:
                raise bad_value("lm.name", config.name, f"{missing[0]} is missing, which {index} lists; copy it anew")
            return [folder / index, *shards]
    remedy = f"no model.safetensors in {folder}; load the model with transformers and save_pretrained it as one"
    raise bad_value("lm.name", config.name, remedy)


def _listed(config: LMConfig, index: Path) -> dict[str, str]:
    """Weight name → file name, from the index of a sharded checkpoint. It may name only files of its own folder."""
    try:
        files = json.loads(index.read_text())["weight_map"]
        names = {str(weight): str(file) for weight, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = f"{index} is no index of weights ({type(error).__name__}); copy the file anew"
        raise bad_value("lm.name", config.name, remedy) from error
    for file in names.values():
        if Path(file).name != file:
            raise bad_value(
                "lm.name", config.name, f"{index} names {file}, which is not in its folder; save the model anew"
            )
    return names
