"""Local copies of a store's files, brought up to date. `<root>/.synced/` keeps what was the same on both sides.

The store decides: what was changed there replaces the local file, and what was deleted there is deleted here. A file
that was changed here alone, or is new here, is uploaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from saemd.remote import store
from saemd.remote.urls import root_of, upload_url

_LAST = "metrics.json"  # a folder that has one is a finished run


def push(path: Path) -> None:
    """Upload a file that has just been written, if it belongs to a store. Raises `UserError`."""
    if url := upload_url(path):
        _record(path, store.upload(path, url))


def fetch(path: Path) -> bool:
    """Make a local file the store's; False where the store has none, and then the local one is removed."""
    url = upload_url(path)
    assert url
    try:
        _record(path, store.download(url, path))
    except store.MissingError:
        _forget(path)
        return False
    return True


def remove(path: Path) -> None:
    """Remove a file, in the store too."""
    url = upload_url(path)
    if url is None:
        path.unlink(missing_ok=True)
        return
    fs, target = store.opened(url)
    with suppress(store.MissingError):  # it never got there
        store.retried(url, lambda: fs.rm_file(target))
    _forget(path)


def sync(folder: Path, wanted: Callable[[Path], bool] = lambda path: True) -> None:
    """Bring a folder of runs and the store's in line. Files that are new in the store are fetched if `wanted`.

    A folder of this machine alone is left as it is. `metrics.json` comes last either way. Raises `UserError`.
    """
    url = upload_url(folder)
    if url is None:
        return
    theirs = {folder / name: found for name, found in store.listed(url).items() if upload_url(folder / name)}
    ours = {path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and upload_url(path)}
    todo: list[tuple[Callable[[Path], object], Path]] = []
    for path in sorted(ours | theirs.keys(), key=lambda path: (path.name == _LAST, path)):
        known = _recorded(path)
        version = store.version_of(theirs[path]) if path in theirs else None
        if version is None:
            todo.append((_forget if known else push, path))
        elif path not in ours:
            todo += [(fetch, path)] if wanted(path) else []
        elif not known or known[0] != version:
            todo.append((fetch, path))
        elif known[1] != _state(path):
            todo.append((push, path))
    if todo:
        from saemd.progress import bar  # and with it rich, which importing `saemd.files` should not need

        with bar(f"files from and to {url}", len(todo), unit="files") as progress:
            for act, path in todo:
                act(path)
                progress.advance()


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _sidecar(path: Path) -> Path:
    root = root_of(path)
    return root / ".synced" / path.absolute().relative_to(root)


def _record(path: Path, version: str) -> None:
    sidecar = _sidecar(path)
    sidecar.parent.mkdir(parents=True, exist_ok=True)
    sidecar.write_text(json.dumps([version, _state(path)]))


def _recorded(path: Path) -> list[Any] | None:
    """The version in the store and the local state that were the same; None where that is not known."""
    try:
        return json.loads(_sidecar(path).read_text())
    except (FileNotFoundError, ValueError):  # half-written at a kill: the store's file is fetched again
        return None


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)
    _sidecar(path).unlink(missing_ok=True)
