"""The rooms of `saemd/` and what each may import: arrows only downwards, and no circle of files.

All imports count, also those inside functions and for type checkers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import saemd

ROOT = Path(saemd.__file__).parent
TOOLS = {
    "arguments", "checksums", "digests", "errors", "files", "locks", "once", "packages", "progress", "ranks", "remote",
    "shaped", "threads",
}  # fmt: skip
ENTRIES = {
    "__init__", "__main__", "api", "cache", "cli", "composition", "consensus", "evaluate", "export", "jobs",
    "launchers", "outcomes", "plan", "preflight", "seeds", "train",
}  # fmt: skip
PROGRAMS = {"saemd.stability.__main__", "saemd.logging.dashboard"}  # entries that live in a room
CONFIGS = {"saemd.config", *(f"saemd.{room}.config" for room in ("activations", "corpus", "lm", "logging", "training"))}
BELOW: dict[str, set[str]] = {
    "tools": set(),
    "sae": {"tools"},
    "config": {"tools", "sae"},  # the typed configuration, each room's part in the room
    "lm": {"tools", "config"},
    "corpus": {"tools", "config"},
    "logging": {"tools", "config"},
    "activations": {"tools", "config", "lm", "corpus"},
    "runs": {"tools", "config", "sae"},
    "training": {"tools", "config", "lm", "logging", "sae", "activations", "runs"},
    "stability": {"tools", "sae", "runs"},
    "planning": {"tools", "config", "lm", "corpus", "sae", "activations", "runs", "training", "stability"},
    "quality": {"tools", "config", "lm", "corpus", "logging", "sae", "activations", "runs"},
    "exports": {"tools", "config", "sae", "runs"},
    "report": {"tools", "stability", "quality", "runs"},
}
EVERYTHING = {*BELOW, "entries"}
ACTIVATIONS = ("streams", "disk", "harvest", "memory", "online")  # its own rooms: each may know those before it


def module_of(path: Path) -> str:
    return ".".join(("saemd", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def room_of(module: str) -> str:
    top = module.split(".")[1] if "." in module else "__init__"
    if module in CONFIGS:
        return "config"
    if module in PROGRAMS or top in ENTRIES:
        return "entries"
    return "tools" if top in TOOLS else top


def imported(module: str) -> Iterator[str]:
    """The files of saemd that a file imports."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__"]
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name and name != module:
                yield name


def test_every_file_has_a_room():
    assert {room_of(module) for module in MODULES} == EVERYTHING


def test_no_files_import_each_other_in_a_circle():
    try:
        tuple(TopologicalSorter({module: set(imported(module)) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_rooms_know_only_what_lies_below():
    tuple(TopologicalSorter(BELOW).static_order())  # the table itself has no circle
    upward = {
        (module, other)
        for module in MODULES
        for other in imported(module)
        if room_of(module) != "entries" and room_of(other) not in BELOW[room_of(module)] | {room_of(module)}
    }
    assert not upward


def test_the_rooms_of_activations_know_only_those_before_them():
    def place(module: str) -> int | None:
        name = module.removeprefix("saemd.activations.").split(".")[0]
        return ACTIVATIONS.index(name) if name in ACTIVATIONS else None

    own = [module for module in MODULES if module.startswith("saemd.activations.")]
    places = [(module, other, place(module), place(other)) for module in own for other in imported(module)]
    upward = {(module, other) for module, other, a, b in places if a is not None and b is not None and b > a}
    assert not upward
    assert {place(module) for module in own} == {None, *range(len(ACTIVATIONS))}
