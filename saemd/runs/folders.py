"""The path of a run below its run root, written and read: init=<label>/l0=<target>/<key>=<value>/…/seed=<seed>."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saemd.config import Config
from saemd.errors import bad_value
from saemd.runs.files import METRICS
from saemd.runs.identity import changes_runs

PART_BYTES = 80  # of a label, and of a value in a folder's name
NAME_BYTES = 128  # W&B's limit for the name of a run
FIXED = ("init", "init.label", "l0", "seed")  # keys that every run's folder holds
_FOLDER = re.compile(
    r"(?:^|/)init=(?P<init>[^/]+)/l0=(?P<l0>\d+(?:\.\d+)?)/(?P<parts>(?:[^/=]+=[^/]*/)*)seed=(?P<seed>-?\d+)$"
)


@dataclass(frozen=True)
class Place:
    """A run's folder, taken apart."""

    run_root: Path
    init: str  # the label of its start
    l0: float  # target
    parts: dict[str, str]  # the keys between l0 and seed
    seed: int


def run_dir(config: Config) -> Path:
    return Path(config.run_root, *_names(config))


def run_name(config: Config) -> str:
    """The run's name in tables, plots and W&B, as `init=mirror l0=40 layer=6 seed=24`."""
    return " ".join(_names(config))


def place_of(folder: Path) -> Place | None:
    """The parts of a run's path; None where it is not the path of a run."""
    folder = folder.resolve()
    match = _FOLDER.search(folder.as_posix())
    if match is None:
        return None
    names = match["parts"].split("/")[:-1]
    parts = dict(name.split("=", 1) for name in names)
    return Place(folder.parents[2 + len(names)], match["init"], float(match["l0"]), parts, int(match["seed"]))


def find(run_root: Path) -> list[Path]:
    """The folders of all finished runs below `run_root`."""
    return sorted(run for l0 in run_root.glob("init=*/l0=*") for run in _finished_below(l0))


def is_among_runs(out: Path, run: Path) -> bool:
    """Would `find` take `out` for a run, or for a folder of runs, below the run root of `run`?"""
    place, out = place_of(run), out.resolve()
    if place is None or not out.is_relative_to(place.run_root):
        return False
    return "".join(out.relative_to(place.run_root).parts[:1]).startswith("init=")


def names_folder(key: str) -> bool:
    """Does a sweep over `key` need a part of the folder? Not where the folder holds it, or no run depends on it."""
    return key not in FIXED and changes_runs(key)


def part(key: str, value: Any) -> str:
    """A value as it is written in a folder's name: a slash becomes a dash. Raises `UserError` where it cannot be."""
    if isinstance(value, str):
        text = value.strip("/").replace("/", "-")
    else:
        text = json.dumps(value, separators=(",", ":"), default=str)
    _check_part(f"folder.{key}", text)
    if key in FIXED or not re.fullmatch(r"[\w.@-]+", key):
        remedy = "it holds init, l0 and seed already; name another key, or a word of your own, as folder.note=second"
        raise bad_value("folder", key, remedy)
    return text


def check_name(config: Config) -> None:
    """Raise `UserError` for a label or parts that cannot name a folder which `find` finds again."""
    _check_part("init.label", config.init.label)
    if (size := len(run_name(config).encode())) > NAME_BYTES:
        parts = " ".join(f"{key}={value}" for key, value in config.folder.items())
        remedy = f"the run's name has {size} bytes with it, and {NAME_BYTES} at most; use shorter values"
        raise bad_value("folder", parts, remedy)


def _check_part(key: str, text: str) -> None:
    plain = text.strip() == text != "" and text.isprintable() and "/" not in text
    if not plain or len(text.encode()) > PART_BYTES:
        remedy = f"it names the run's folder: use 1 to {PART_BYTES} bytes, no /, and no blanks around it"
        raise bad_value(key, repr(text if len(text) < 40 else text[:40] + "…"), remedy)


def _names(config: Config) -> list[str]:
    parts = [f"{key}={value}" for key, value in sorted(config.folder.items())]
    return [f"init={config.init.label}", f"l0={config.l0}", *parts, f"seed={config.seed}"]


def _finished_below(folder: Path) -> Iterator[Path]:
    for child in folder.glob("*=*"):
        if not child.name.startswith("seed="):
            yield from _finished_below(child)
        elif (child / METRICS).exists():
            yield child
