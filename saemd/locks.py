"""One process at a time where several would write the same files."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, taken: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`; its folder is made. If another process or thread holds it, `taken` is called.

    Then this one waits, unless `taken` raises. The system releases a killed holder's lock. The file stays, since a
    removed one could be held twice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        if not free:
            taken()
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to a forked child
