"""What a folder holds, in a form in which two folders can be compared bit by bit, without times and paths."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

EXCEPTED = {
    "digests.json": "times and inodes of the user's files",
    "report.html": "times of the runs (a product of the records)",
    "seconds, tokens_per_second": "of metrics.json, scores and figures: speed",
    "git_commit": "of config.yaml, where a commit came between",
    "trained_together": "of metrics.json: a killed stack may go on as two",
    "mtime_ns": "of the weights that a comparison was made from",
    "text of a figure": "a digest that holds these times; its pixels are compared",
    "checksum": "of a record that holds one of these",
    "loops, callbacks": "of last.ckpt: Lightning's own counters, as of restarts; the rest is compared",
    "locks": "empty files",
}
_TIMES = {"seconds", "tokens_per_second", "trained_together", "git_commit", "mtime_ns", "checksum"}
_SKIPPED = re.compile(r"(^|/)(digests\.json|report\.html|[^/]*\.lock|\.hydra/.*|multirun\.yaml|.*\.log)$")
_HALF = re.compile(r"(^|/)(\.partial-|\.tmp)")


def contents(root: Path, but: str = "") -> dict[str, str]:
    """A digest of every file below `root`, by its path, but those in `EXCEPTED`, half-written ones, and `but`."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    names = {path.relative_to(root).as_posix(): path for path in files}
    names.pop(but, None)
    return {name: digest(path) for name, path in names.items() if not _SKIPPED.search(name) and not _HALF.search(name)}


def left_over(root: Path) -> list[str]:
    """Half-written files that nothing has removed."""
    return [
        path.relative_to(root).as_posix() for path in root.rglob("*") if _HALF.search(path.relative_to(root).as_posix())
    ]


def digest(path: Path) -> str:
    """Of the content without times."""
    return hashlib.sha256(_READERS.get(path.suffix, Path.read_bytes)(path)).hexdigest()[:16]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in _TIMES}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    if isinstance(value, str) and '"mtime_ns"' in value:  # JSON within JSON
        return _timeless(json.loads(value))
    return value


def _plain(read: Callable[[str], Any]) -> Callable[[Path], bytes]:
    return lambda path: json.dumps(_timeless(read(path.read_text())), sort_keys=True).encode()


def _arrays(path: Path) -> bytes:
    with np.load(path) as file:
        parts = {name: file[name] for name in sorted(file.files)}
    texts = {
        name: _timeless(str(array)) for name, array in parts.items() if array.dtype.kind == "U" and not array.shape
    }
    numbers = b"".join(name.encode() + array.tobytes() for name, array in parts.items() if name not in texts)
    return numbers + json.dumps(texts, sort_keys=True).encode()


def _pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return f"{image.size}".encode() + image.convert("RGBA").tobytes()


def _checkpoint(path: Path) -> bytes:
    saved = torch.load(path, weights_only=True)
    return b"".join(_bytes(saved[key]) for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"))


def _bytes(value: Any) -> bytes:
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return b"".join(f"{key}".encode() + _bytes(item) for key, item in value.items())
    return b"".join(map(_bytes, value)) if isinstance(value, list | tuple) else repr(value).encode()


_READERS: dict[str, Callable[[Path], bytes]] = {
    ".json": _plain(json.loads), ".yaml": _plain(yaml.safe_load), ".npz": _arrays, ".ckpt": _checkpoint,
    ".png": _pixels,
}  # fmt: skip
