"""Permissions that hold for root too: containers run tests as root, whom no permission stops."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VERSION, _THIS_THREAD = 0x20080522, 0  # of Linux's capget and capset
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2


@contextmanager
def read_only(*folders: Path) -> Iterator[None]:
    """Inside, neither the folders nor what is below them can be written, by this thread at least."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, _THIS_THREAD)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    below = [path for folder in folders for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    modes = [path.stat().st_mode & 0o7777 for path in below]
    for path, mode in zip(below, modes, strict=True):
        path.chmod(mode & ~0o222)
    sets[0] = effective & ~(_DAC_OVERRIDE | _DAC_READ_SEARCH)
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0
        for path, mode in zip(below, modes, strict=True):
            path.chmod(mode)
