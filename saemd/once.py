"""Folders that are made once and kept: written aside and renamed, by one process at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from saemd.files import check_writable, refuse_full_disk
from saemd.locks import locked


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make(empty folder beside it)` when it is not there.

    A second process waits and finds it made. What a killed run left behind is removed by the next one. Libraries write
    some files for their owner alone; here the umask decides who may read them. Raises `UserError` where the folder
    cannot be written; one that is there is never written to.
    """
    if folder.is_dir():
        return folder
    check_writable(folder.parent)
    with refuse_full_disk(folder), locked(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        partial = folder.with_name(f".partial-{folder.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            make(partial)
            _open_as(partial, partial.stat().st_mode)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _open_as(folder: Path, mode: int) -> None:
    """Give everything below `folder` the permissions of a fresh folder of this `mode`, and of a fresh file in it."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode & (0o7777 if path.is_dir() else 0o666))
