"""The files of a run directory, and how they are read: a directory may come from elsewhere, or be damaged."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from saemd import locks
from saemd.checksums import with_checksum
from saemd.errors import UserError
from saemd.files import DamagedFileError, read_json, read_yaml, remove_partial, unwritable, write_text
from saemd.remote import claims
from saemd.sae.export import CONFIG as SAE_CONFIG
from saemd.sae.export import WEIGHTS

CONFIG, CHECKPOINT, LATENTS, METRICS = "config.yaml", "last.ckpt", "latents.npz", "metrics.json"
LOCK = ".lock"

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
        raise DamagedFileError(path, f"holds {_type_name(saved)} where keys and values are due", remedy)
    for key, required in (("config", dict), ("cache_fingerprint", str), ("sibling_fingerprint", str)):
        if not isinstance(saved.get(key), required):
            raise DamagedFileError(path, _fault(key, saved), remedy)
    for key in _MAPPINGS:
        parent, _, name = key.rpartition(".")
        values = saved[parent] if parent else saved
        if not isinstance(values.get(name) or {}, dict):
            raise DamagedFileError(path, _fault(name, values), remedy)
    return saved


def write_config(folder: Path, about: dict[str, Any]) -> None:
    write_text(folder / CONFIG, yaml.safe_dump(with_checksum(about), sort_keys=False))


def read_metrics(folder: Path, required: tuple[str, ...] = ("l0", "fvu")) -> dict[str, Any]:
    """`metrics.json`, whose figures are numbers. Raises `DamagedFileError` where one of `required` is missing."""
    path = folder / METRICS
    remedy = "remove it, and the command that trained this run measures it again"
    metrics = read_json(path, remedy)
    if not isinstance(metrics, dict):
        raise DamagedFileError(path, f"holds {_type_name(metrics)} where keys and values are due", remedy)
    for key in _NUMBERS:
        value = metrics.get(key)
        absent = key not in metrics and key not in required
        if not absent and not (isinstance(value, float) or (type(value) is int and abs(value) < 2**63)):
            raise DamagedFileError(path, _fault(key, metrics), remedy)
    return metrics


def refuse_foreign(folder: Path) -> None:
    """Raise `UserError` where `folder` cannot hold a run: a file is in its place, or folders in its files' places."""
    for parent in (folder, *folder.parents):
        if parent.exists():
            if not parent.is_dir():
                raise UserError(f"{parent}: a file, where {folder} needs a folder; remove it, or use another run_root")
            break
    for name in (CONFIG, CHECKPOINT, WEIGHTS, SAE_CONFIG, LATENTS, METRICS):
        if (folder / name).is_dir():
            raise UserError(f"{folder / name}: a folder, where a run keeps a file; remove it")


class HeldError(UserError):
    """Another process or machine trains a run."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's directory, so that one process trains it; remove what a killed process left half-written.

    Raises `HeldError` where another process or machine trains it, and `UserError` where it cannot be written.
    """

    def refuse() -> None:
        raise _held_by(folder, locks.holder(folder / LOCK) or "another process")

    def refuse_machine(line: str) -> None:
        raise HeldError(f"{line}; wait for it, or stop it")

    with ExitStack() as lock:
        try:
            lock.enter_context(locks.locked(folder / LOCK, refuse))
            locks.sign(folder / LOCK)
            remove_partial(folder)
        except OSError as error:
            raise unwritable(folder, error) from error
        lock.enter_context(claims.claimed(folder, refuse_machine))
        yield


def holder(folder: Path) -> str | None:
    """Who trains the run in `folder` now, as `process 12 on node3`; None if nobody does."""
    return locks.holder(folder / LOCK) or claims.holder(folder)


def refuse_held(folder: Path) -> None:
    """Raise `HeldError` where another process or machine trains the run now, before anything is read for it."""
    if who := holder(folder):
        raise _held_by(folder, who)


def _held_by(folder: Path, who: str) -> HeldError:
    return HeldError(f"{folder}: {who} is training this run; wait for it, or stop it")


def _fault(key: str, values: dict[str, Any]) -> str:
    return f"has {key}={_short(values[key])}" if key in values else f"misses {key}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _type_name(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(type(value), "a single value")
