"""An object store in this process's memory, and a machine's local copies of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from saemd.remote import store
from saemd.remote.urls import CACHE_ROOT, local_folder


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Moves to another machine, without local copies; the test begins on one."""

    def move(name: str) -> None:
        monkeypatch.setenv("SAEMD_LOCAL", str(tmp_path / f"machine-{name}"))

    move("first")
    monkeypatch.setattr(store, "DELAYS", (0.0, 0.0))
    monkeypatch.setattr(store, "CHECK_DELAYS", (0.0,))
    return move


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URL of an empty bucket."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.mkdir("/bucket")
    yield "memory://bucket"
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def folder(bucket: str) -> Callable[[], Path]:
    """The local folder, on the present machine, of an activation cache in the bucket."""

    def on_this_machine() -> Path:
        parent = local_folder(CACHE_ROOT, f"{bucket}/caches") / "activations"
        parent.mkdir(parents=True, exist_ok=True)
        return parent / "tiny"

    return on_this_machine


def objects(url: str) -> dict[str, bytes]:
    """The content of every object below a URL."""
    fs, path = fsspec.url_to_fs(url)
    return {name.strip("/").removeprefix(f"{path.strip('/')}/"): fs.cat_file(name) for name in fs.find(path)}
