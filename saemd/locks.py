"""Processes that would write the same files: one at a time, or several that know of each other."""

import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from saemd.errors import UserError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_ALONE_SECONDS = 2.0  # that a first sharer usually takes at most
_LOOK_SECONDS = 0.2  # for which `holder`, called by another process, may have the lock


@contextmanager
def locked(path: Path, taken: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`; its folder is made. If another process or thread holds it, `taken` is called.

    Then this one waits, unless `taken` raises. The system releases a killed holder's lock. The file stays, since a
    removed one could be held twice. Raises `UserError` on a disk without file locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        waits_until = time.monotonic() + _LOOK_SECONDS
        while not (is_held := try_lock(file, fcntl.LOCK_EX)) and time.monotonic() < waits_until:
            time.sleep(0.01)
        if not is_held:
            taken()
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to a forked child


def sign(path: Path) -> None:
    """Write into the lock file `path`, which this process holds, what `holder` tells others."""
    path.write_text(f"process {os.getpid()} on {platform.node()}")


def holder(path: Path) -> str | None:
    """Who holds the lock file `path`, as `process 12 on node3`; None if nobody does."""
    try:
        with open(path, "r+") as file:  # NFS locks only files that are open for writing
            if try_lock(file, fcntl.LOCK_SH):
                fcntl.flock(file, fcntl.LOCK_UN)
                return None
            return file.read() or "another process"
    except OSError:  # no such file; or one that this process cannot lock either, which `locked` says
        return None


@contextmanager
def shared(path: Path, first: Callable[[], object], taken: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path` together with other sharers. `first` runs while no other process holds it.

    A holder in `locked` keeps all sharers out, and they keep it out: then `taken` is called, and this one waits.
    Raises `UserError` on a disk without file locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        if try_lock(file, fcntl.LOCK_EX):
            first()
        waits_until = time.monotonic() + _ALONE_SECONDS  # for another first sharer, in silence
        while not (is_held := try_lock(file, fcntl.LOCK_SH)) and time.monotonic() < waits_until:
            time.sleep(0.05)
        if not is_held:
            taken()
            fcntl.flock(file, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def try_lock(file: IO[str], kind: int) -> bool:
    """Lock an open file (`fcntl.LOCK_EX` or `LOCK_SH`) unless another holder is in the way.

    Raises `UserError` on a disk without file locks.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        remedy = "mount the disk with file locks (Lustre: -o flock), or use a folder on another one"
        raise UserError(f"{file.name}: this disk has no file locks ({error.strerror}); {remedy}") from error
    return True
