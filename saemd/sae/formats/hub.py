"""Hub addresses of SAEs, downloaded with huggingface_hub: `hf://org/repository/folder`, or SAELens's release/sae_id."""

import importlib.util
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from saemd.errors import UserError
from saemd.files import one_line

SCHEME = "hf:"  # behind it one slash, as `Path` leaves it, or two


def is_on_hub(address: str) -> bool:
    """Is it `hf://…`, or does it begin with a release that the installed sae-lens knows?"""
    return address.startswith(f"{SCHEME}/") or address.split("/")[0] in _releases()


def download(address: str, names: Iterable[str]) -> Path:
    """The folder on this disk with those files `names` that the hub has. Raises `UserError`."""
    repository, folder = _place(address)
    try:
        from huggingface_hub import snapshot_download

        patterns = [f"{folder}/{name}" if folder else name for name in names]
        return Path(snapshot_download(repository, allow_patterns=patterns)) / folder
    except ImportError as error:
        raise UserError(f"{address}: pip install huggingface_hub") from error
    except (OSError, ValueError) as error:  # no network, no such repository, no access, no such name
        reason = f"the hub did not give {repository} ({one_line(error)})"
        raise UserError(f"{address}: {reason}; check the name, the network and HF_TOKEN, or download it") from error


def _place(address: str) -> tuple[str, str]:
    """The repository and the folder in it. Raises `UserError`."""
    if address.startswith(f"{SCHEME}/"):
        organisation, _, rest = address.removeprefix(SCHEME).strip("/").partition("/")
        name, _, folder = rest.partition("/")
        if not name:
            raise UserError(f"{address}: write hf://<organisation>/<repository>/<folder>")
        return f"{organisation}/{name}", folder
    name, _, sae_id = address.partition("/")
    release = _releases()[name]
    paths = {str(sae["id"]): str(sae["path"]) for sae in release["saes"]}
    if sae_id not in paths:
        known = f"{', '.join(list(paths)[:5])}{' …' if len(paths) > 5 else ''}"
        raise UserError(f"{address}: SAELens's release {name} has {known}; write {name}/<one of them>")
    return release["repo_id"], paths[sae_id].removesuffix("/params.npz")


@lru_cache(maxsize=1)
def _releases() -> dict[str, Any]:
    """SAELens's table of releases, out of the installed package, which is not imported; empty without it."""
    found = importlib.util.find_spec("sae_lens")
    if found is None or not found.submodule_search_locations:
        return {}
    path = Path(found.submodule_search_locations[0]) / "pretrained_saes.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(), Loader=loader) if path.is_file() else {}
