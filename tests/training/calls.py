"""What the processes of `test_processes` call. It imports nothing heavy, so that they start at once."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from saemd.errors import UserError


def numbers(_: Any) -> list[str]:
    return [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")]


def fail_in_second(how: str) -> None:
    """The first process waits; the second one fails in a way that has this name."""
    if os.environ["RANK"] == "0":
        time.sleep(500)
    print("what it printed", file=sys.stderr)
    if how == "refused":
        raise UserError("l0=0: use more")
    if how == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if how == "failed":
        raise ZeroDivisionError
    os._exit(3)


def save_at_sigterm(folder: Path) -> None:
    """Write a file for each process that SIGTERM reaches."""

    def save(*_: object) -> None:
        (folder / f"saved {os.environ['RANK']}").touch()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, save)
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(60)
