"""What a run directory is: its files, and how they are read. It may come from elsewhere, or be damaged.

Order of writing: config.yaml, last.ckpt again and again, and at the end the SAE, latents.npz, metrics.json. So a folder
with metrics.json is whole, and one without goes on from last.ckpt when its command is given again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saemd.errors import UserError
from saemd.files import DamagedFileError, read_json, read_yaml

CONFIG, CHECKPOINT, WEIGHTS, SAE_CONFIG = "config.yaml", "last.ckpt", "sae_weights.safetensors", "cfg.json"
LATENTS, METRICS = "latents.npz", "metrics.json"
MEASURE_AGAIN = "remove {}, and the command that trained this run measures it again"

_NUMBERS = (
    "tokens", "steps", "target_l0", "l0", "fvu", "explained_variance", "loss", "dead_fraction", "drift_dec",
    "drift_enc", "tokens_per_second", "seconds", "trained_together",
)  # fmt: skip
_MAPPINGS = ("start", "cache", "versions", "config.init", "config.lm", "config.corpus", "config.activations")


def read_config(folder: Path) -> dict[str, Any]:
    """`config.yaml`: the keys `config`, `cache_fingerprint`, `sibling_fingerprint` and more.

    Raises `DamagedFileError` where it is missing or of another shape.
    """
    path = folder / CONFIG
    remedy = f"remove {folder} and train it again"
    saved = read_yaml(path, remedy)
    if not isinstance(saved, dict):
        raise DamagedFileError(path, f"holds {_kind(saved)} where keys and values are due", remedy)
    for key, kind in (("config", dict), ("cache_fingerprint", str), ("sibling_fingerprint", str)):
        if not isinstance(saved.get(key), kind):
            raise DamagedFileError(path, _misses(key, saved), remedy)
    for key in _MAPPINGS:
        room, _, name = key.rpartition(".")
        of = saved[room] if room else saved
        if not isinstance(of.get(name) or {}, dict):
            raise DamagedFileError(path, _misses(name, of), remedy)
    return saved


def read_metrics(folder: Path, needed: tuple[str, ...] = ("l0", "fvu")) -> dict[str, Any]:
    """`metrics.json`, whose figures are numbers. Raises `DamagedFileError` where one of `needed` is missing."""
    path = folder / METRICS
    remedy = MEASURE_AGAIN.format("it")
    metrics = read_json(path, remedy)
    if not isinstance(metrics, dict):
        raise DamagedFileError(path, f"holds {_kind(metrics)} where keys and values are due", remedy)
    for key in _NUMBERS:
        value = metrics.get(key)
        absent = key not in metrics and key not in needed
        if not absent and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DamagedFileError(path, _misses(key, metrics), remedy)
    return metrics


def refuse_foreign(folder: Path) -> None:
    """Raises `UserError` where `folder` is no place for a run: a file is in its way, or folders in its files' place."""
    for parent in (folder, *folder.parents):
        if parent.exists():
            if not parent.is_dir():
                raise UserError(f"{parent}: a file, where {folder} needs a folder; remove it, or use another run_root")
            break
    for name in (CONFIG, CHECKPOINT, WEIGHTS, SAE_CONFIG, LATENTS, METRICS):
        if (folder / name).is_dir():
            raise UserError(f"{folder / name}: a folder, where a run keeps a file; remove it")


def is_among_runs(out: Path, run: Path) -> bool:
    """Is `out` a place below `run`'s run root where runs are kept, and looked for?"""
    parents, place = run.resolve().parents, out.resolve()
    inside = len(parents) > 2 and place.is_relative_to(parents[2])
    return inside and "".join(place.relative_to(parents[2]).parts[:1]).startswith("init=")


def _misses(key: str, there: dict[str, Any]) -> str:
    return f"has {key}={_short(there[key])}" if key in there else f"misses {key}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(type(value), "a single value")
