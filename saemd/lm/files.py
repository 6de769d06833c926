"""Where a language model's files are: a local folder, the hub (only the files asked for), or packages.

Every way to fail ends in one line that says what to do (`UserError`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from saemd.errors import bad_value
from saemd.lm.config import LMConfig
from saemd.lm.packaged import converted, pins

CONFIG = ["config.json"]
INDEX = ["config.json", "model.safetensors.index.json"]
# By name: repositories also hold the same weights in other formats (consolidated, onnx, flax), twice the download.
EVERYTHING = [
    *["config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"],
    *["model-*.safetensors", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt"],
    *["*.model", "chat_template*"],
]
PICKLED = [name for name in EVERYTHING if "safetensors" not in name] + ["pytorch_model*"]


def resolve(config: LMConfig, cache_root: Path, files: Sequence[str] = EVERYTHING) -> Path:
    """The local folder that holds the model's `files` (names or patterns), fetched from the hub where they are not.

    A packaged model is converted first, whole. Raises `UserError` where the model cannot be had, with what to do.
    """
    if config.packages:
        return converted(config, cache_root)
    local = Path(config.name).expanduser()
    if (local / "config.json").is_file():
        return local
    if local.is_dir() or config.name.startswith((".", "/", "~")):
        raise bad_value("lm.name", config.name, "this folder has no config.json; name a saved transformers model")
    return _from_hub(config, files)


def _from_hub(config: LMConfig, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=list(files)))
    except GatedRepoError as error:
        remedy = (
            f"gated: accept its licence on the hub's page of {config.name} and set HF_TOKEN to your token; or use a "
            "local folder with lm=hf lm.name=<folder>"
        )
        raise bad_value("lm.name", config.name, remedy) from error
    except RevisionNotFoundError as error:
        raise bad_value("lm.revision", config.revision, f"{config.name} has no such branch, tag or commit") from error
    except HFValidationError as error:
        raise bad_value("lm.name", config.name, "neither a local folder nor a hub id (owner/name)") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        remedy = (
            f"the hub did not give it ({type(error).__name__}): check the name, the network and, for a gated model, "
            "that its licence is accepted and HF_TOKEN is set; or use a local folder with lm=hf lm.name=<folder>"
        )
        raise bad_value("lm.name", config.name, remedy) from error


@contextmanager
def opened(config: LMConfig, path: Path) -> Iterator[Any]:
    """One safetensors file, its header read. Raises `UserError` where it is missing, truncated or another thing."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise bad_value("lm.name", config.name, f"{path} cannot be read ({error}); copy the file anew") from error


def weight_files(config: LMConfig, folder: Path) -> dict[str, str]:
    """Weight name → the safetensors file in `folder` that holds it, of one file or a sharded checkpoint."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return json.loads(index.read_text())["weight_map"]
    with opened(config, folder / "model.safetensors") as file:
        return dict.fromkeys(file.keys(), "model.safetensors")


def fingerprint(config: LMConfig, folder: Path) -> str:
    """16 hex digits that stand for the weights, the same on every machine that has them.

    Packages: their pinned checksums. Hub: id and commit. Local folder: config.json, and name, size and sixteen samples
    of 64 KiB of every weight file.
    """
    if config.packages:
        return hashlib.sha256(pins(config).encode()).hexdigest()[:16]
    if folder.parent.name == "snapshots":  # the hub's cache names a snapshot by its commit
        return hashlib.sha256(f"{config.name}@{folder.name}".encode()).hexdigest()[:16]
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            for k in range(16):
                file.seek(k * size // 16)
                digest.update(file.read(65_536))
    return digest.hexdigest()[:16]
