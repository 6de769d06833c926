"""Folders that are made once and kept: one process writes a partial folder, then renames it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from saemd.files import check_writable, refuse_full_disk
from saemd.locks import locked


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`; if it does not exist, `make(partial folder)` writes its content first.

    A second process waits for the first. The next call removes what a killed one left. Libraries write some files for
    their owner alone; here the umask decides who may read them. An existing folder is never written to. Raises
    `UserError` where the folder cannot be written.
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
    """Give all folders below `folder` the permissions `mode`, and all files the same without execution."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode & (0o7777 if path.is_dir() else 0o666))
