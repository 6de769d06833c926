"""Folders below cache_root that cannot be written, and full disks: one line instead of the system's error."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from saemd.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_writable(folder: Path) -> None:
    """Make `folder`, write to it and leave nothing in it. Raises `UserError` where that fails.

    The permissions alone do not say it: a disk may be mounted read-only, or be another machine's.
    """
    with refuse_full_disk(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")
        except OSError as error:
            if error.errno in _FULL:
                raise
            remedy = "make it writable, or name a folder that is"
            raise UserError(f"cache_root: {folder} cannot be written ({error.strerror}); {remedy}") from error


@contextmanager
def refuse_full_disk(folder: Path) -> Iterator[None]:
    """Raises `UserError` where the disk of `folder`, which is written to inside, becomes full."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in _FULL or "No space left on device" in str(error):
            raise UserError(f"cache_root: the disk of {folder} is full; make room, or name a larger one") from error
        raise
