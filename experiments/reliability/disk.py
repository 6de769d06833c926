"""A small disk in memory, and how it is filled to its last block while a command writes to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[None]:
    """A tmpfs of this size at `folder`. Needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[Callable[[], None]]:
    """A function that leaves no free block on the disk of `folder`. Behind the block there is room again."""
    filler = folder / "filler"

    def fill() -> None:
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
            try:
                while True:
                    file.write(bytes(1 << 12))
            except OSError:
                pass
            os.fsync(file.fileno())

    try:
        yield fill
    finally:
        filler.unlink(missing_ok=True)
