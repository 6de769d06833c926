"""The local folder of a URL, and the URL of a local file: each follows from the other, without a record.

    s3://bucket/sweeps/big  ⇄  <local>/run_root/s3%3A%2F%2Fbucket%2Fsweeps/big

`<local>` is $SAEMD_LOCAL, by default `~/.cache/saemd/remote`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from saemd.errors import bad_value

CACHE_ROOT, RUN_ROOT = "cache_root", "run_root"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")
_DEPTH = 3  # parts of a root's local folder below `<local>`: the key, the quoted parent, the last name


def is_url(text: str) -> bool:
    return _URL.fullmatch(text) is not None


def masked(url: str) -> str:
    """The URL as it may be printed: without a password or a signature."""
    return re.sub(r"(?<=://)[^/@\s]*@|\?\S*", "…", url)


def local_folder(key: str, text: str) -> Path:
    """The local folder of a URL; any other text is the folder itself. `key` is `cache_root` or `run_root`.

    The URL of a run is a folder of its run root's. Raises `UserError` for a URL that names no folder of a store.
    """
    match = _URL.fullmatch(text)
    if match is None:
        return Path(text).expanduser()
    protocol, names = match[1].lower(), match[2].strip("/")
    if protocol in ("file", "local"):
        raise bad_value(key, text, "is a folder of this machine; write its path alone")
    if "@" in names.partition("/")[0] or "?" in names:
        remedy = "a URL is recorded in config.yaml; leave the credentials out, and set them as your store's client asks"
        raise bad_value(key, masked(text), remedy)
    if not names or any(part in ("", ".", "..") for part in names.split("/")):
        raise bad_value(key, text, f"name a bucket and a folder, {protocol}://<bucket>/<folder>")
    root, _, run = names.partition("/init=")
    parent, _, name = root.rpartition("/")
    folder = local_root() / key / quote(f"{protocol}://{parent}", safe="") / name
    return folder / f"init={run}" if run else folder


def local_root() -> Path:
    """The folder of all local copies."""
    return Path(os.environ.get("SAEMD_LOCAL", "~/.cache/saemd/remote")).expanduser().resolve()


def url_of(path: Path) -> str | None:
    """The URL of a local file or folder; None where it is no local copy."""
    parts = _parts(path)
    if parts is None:
        return None
    parent = unquote(parts[1])
    return (parent if parent.endswith("://") else f"{parent}/") + "/".join(parts[2:])


def root_of(path: Path) -> Path:
    """The local folder of the root below which the local copy `path` lies."""
    parts = _parts(path)
    assert parts is not None, f"{path} is no local copy"
    return local_root().joinpath(*parts[:_DEPTH])


def upload_url(path: Path) -> str | None:
    """Where a file is uploaded to; None for files of this machine alone, as language models in a remote cache_root."""
    parts = _parts(path)
    if parts is None or any(part.startswith(".") for part in parts[_DEPTH:]):
        return None
    if parts[0] == CACHE_ROOT and parts[_DEPTH : _DEPTH + 1] != ("activations",):
        return None
    return url_of(path)


def recorded(folder: str) -> str:
    """A `cache_root` or `run_root` as it is recorded: a URL again where it is a local copy."""
    return url_of(Path(folder)) or folder


def _parts(path: Path) -> tuple[str, ...] | None:
    path, root = path.absolute(), local_root()
    if not path.is_relative_to(root) or len(parts := path.relative_to(root).parts) < _DEPTH:
        return None
    return parts if parts[0] in (CACHE_ROOT, RUN_ROOT) else None
