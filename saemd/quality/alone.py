"""One evaluation at a time where two would write the same files."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of `name` in `folder`. Where another evaluation has it, one line says so, and this one waits.

    A killed holder's lock is released by the system.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: waiting for another evaluation that measures it on the same text", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
