"""What a run directory says of itself: configuration, fingerprints, versions; and how a stranger's is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from saemd import __version__
from saemd.activations.manifest import Origin
from saemd.activations.registry import describe_source
from saemd.activations.source import Source
from saemd.config import Config
from saemd.errors import UserError, bad_value
from saemd.files import remove_partial, unwritable, write_text
from saemd.locks import locked
from saemd.runs import CHECKPOINT, CONFIG, METRICS, read_config, read_metrics, refuse_foreign
from saemd.sae.export import sae_shape

LABEL_BYTES = 80  # W&B's names have 128: a run is named by label, L0 and seed

EARLIER = "its activations are others: files of the model or the text changed, or an earlier version identified them"

# Keys that change where and how a run is computed but not what it is; the cache's fingerprint stands for lm and corpus.
_ELSEWHERE = (
    "lm", "corpus", "logger", "run_root", "cache_root", "accelerator", "threads", "checkpoint_minutes",
)  # fmt: skip
_SEEDS = ("seed", "init_seed", "data_seed")
_SPEED = ("lm_batch_tokens", "prefetch_batches")  # of `activations`: memory and time alone


def run_dir(config: Config) -> Path:
    return Path(config.run_root) / f"init={config.init.label}" / f"l0={config.l0}" / f"seed={config.seed}"


def check_label(label: str) -> None:
    """Raise `UserError` for a label that cannot name a folder which the comparison finds again."""
    plain = label.strip() == label != "" and label.isprintable() and "/" not in label
    if not plain or len(label.encode()) > LABEL_BYTES:
        remedy = f"it names the run's folder: use 1 to {LABEL_BYTES} bytes, no /, and no blanks around it"
        raise bad_value("init.label", repr(label if len(label) < 40 else label[:40] + "…"), remedy)


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The keys, joined with dots, in which two configurations differ, with both values."""
    return _differing(_flat(dataclasses.asdict(a)), _flat(dataclasses.asdict(b)))


def _differing(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)}


def finished(config: Config) -> dict[str, Any] | None:
    """`metrics.json`'s content of this configuration's run; None where it is still to be trained.

    Needs neither Lightning nor the cached activations, which may have been deleted since. Raises `UserError` where the
    directory holds a run of another configuration, or a damaged one, or is no directory.
    """
    folder = run_dir(config)
    refuse_foreign(folder)
    if not (folder / METRICS).is_file():
        return None
    origin = describe_source(config.lm, config.layer, config.corpus, config.activations, Path(config.cache_root))
    refuse_another(folder, identify(config, origin))
    metrics = read_metrics(folder, ("l0", "target_l0", "fvu", "dead_fraction"))
    sae_shape(folder)
    return metrics


def identify(config: Config, origin: Origin) -> dict[str, Any]:
    """What decides whether two runs are the same, or siblings; `origin` is that of the activations."""
    values = dataclasses.asdict(config)
    matters = _matters(values, origin.fingerprint)
    siblings = {key: value for key, value in matters.items() if key not in _SEEDS}
    return {
        "config": values,
        "fingerprint": _fingerprint(matters),
        "sibling_fingerprint": _fingerprint(siblings),
        "cache_fingerprint": origin.fingerprint,
        "lm_fingerprint": origin.lm_fingerprint,  # parts of the cache's, so that a refusal can say which one changed
        "corpus_fingerprint": origin.corpus_fingerprint,
    }


def _matters(values: dict[str, Any], cache_fingerprint: str) -> dict[str, Any]:
    matters = {key: value for key, value in values.items() if key not in _ELSEWHERE}
    reading = {key: value for key, value in values["activations"].items() if key not in _SPEED}
    return {**matters, "activations": reading, "cache": cache_fingerprint}


def describe(config: Config, cache: Source) -> dict[str, Any]:
    """The content of `config.yaml`, but for the start's digests."""
    packages = ("torch", "lightning", "transformers", "numpy", "scipy")
    return {
        **identify(config, cache.origin),
        "cache": cache.summary(),
        "versions": {
            "saemd": __version__,
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in packages},
        },
        "git_commit": _git_commit(),
    }


def refuse_another(folder: Path, about: dict[str, Any]) -> None:
    """Raises `UserError` with the differing keys where `folder` holds a run of another configuration.

    And where its configuration cannot be read, so that it may be one.
    """
    if not any((folder / name).exists() for name in (CONFIG, CHECKPOINT, METRICS)):
        return
    there = read_config(folder)
    old, new = (_flat(_matters(side["config"], side["cache_fingerprint"])) for side in (there, about))
    if old == new:
        return
    del old["cache"], new["cache"]
    shown = _shown(old, new)
    if there["cache_fingerprint"] != about["cache_fingerprint"]:
        shown += _changed_inputs(there, about) or ([] if shown else [EARLIER])
    raise UserError(
        f"{folder} holds a run of another configuration ({', '.join(shown)}); choose another run_root, or delete it"
    )


def _shown(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{key}: {there} there, {asked} asked for" for key, (there, asked) in _differing(old, new).items()]


def _changed_inputs(there: dict[str, Any], about: dict[str, Any]) -> list[str]:
    """Why the activations are others: the keys of model and text that differ, or that their files changed."""
    shown: list[str] = []
    for part, name in (("lm", "lm.name"), ("corpus", "corpus.path")):
        old, new = (_flat({part: side["config"].get(part) or {}}) for side in (there, about))
        earlier = there.get(f"{part}_fingerprint")
        if keys := _shown(old, new):
            shown += keys
        elif earlier and earlier != about[f"{part}_fingerprint"]:
            shown.append(f"the files of {name}={new.get(name)} have changed since")
    return shown


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's directory, so that one process trains it, without what a killed one left half-written.

    Raises `UserError` where another process trains it, or it cannot be written.
    """

    def refuse() -> None:
        raise UserError(f"{folder}: another process is training this run; wait for it, or stop it")

    with ExitStack() as lock:
        try:
            lock.enter_context(locked(folder / ".lock", refuse))
            remove_partial(folder)
        except OSError as error:
            raise unwritable(folder, error) from error
        yield


def write_config(folder: Path, about: dict[str, Any]) -> None:
    write_text(folder / CONFIG, yaml.safe_dump(about, sort_keys=False))


def digest(tensor: Tensor) -> str:
    """sha256 of a tensor's float32 values."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def _fingerprint(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


@lru_cache
def _git_commit() -> str | None:
    """The commit of the source tree this package runs from, when this was first asked; None without one, or git.

    An installed package may lie in the work tree of another project, whose commit says nothing of it.
    """
    this = Path(__file__)
    commands = (["ls-files", "--error-unmatch", this.name], ["rev-parse", "HEAD"])
    try:
        tracked, head = (
            subprocess.run(["git", "-C", str(this.parent), *command], capture_output=True, text=True, check=False)
            for command in commands
        )
    except FileNotFoundError:
        return None
    return head.stdout.strip() if tracked.returncode == head.returncode == 0 else None
