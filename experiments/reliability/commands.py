"""Commands as users type them, in forks of this warm process or in processes of their own, and their sudden ends."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WARM = ("saemd.jobs", "saemd.seeds", "saemd.cache", "saemd.evaluate", "saemd.stability.__main__", "saemd.report.page",
        "saemd.quality.evaluation", "saemd.planning.outlook", "transformers.models.llama.modeling_llama",
        "saemd.quality.config", "saemd.report.score_figures", "saemd.logging")  # fmt: skip
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: a signal), processor seconds, and what it printed."""

    code: int
    seconds: float
    said: str

    @property
    def errors(self) -> list[str]:
        """The lines that say why a command or a job failed."""
        return [line for line in self.said.splitlines() if line.startswith(("error: ", "failed"))]

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.said


def warm_up() -> None:
    """Import what the commands import, and start no thread: a fork keeps none."""
    for name in WARM:
        importlib.import_module(name)


def run(
    words: list[str], at: float = float("inf"), act: Callable[[int], object] | None = None, *, own: bool = False
) -> Ended:
    """Run `saemd <words>`; once it has used `at` processor seconds, call `act` with its process id.

    With `own` it is a process of its own, and else a fork of this one.
    """
    printed = Path(os.environ["TMPDIR"]) / f"printed-{threading.get_ident()}"
    pid = _start(words, printed, own)
    clock, seconds, acted = (~pid << 3) | 2, 0.0, False  # Linux's clock of another process's processor time
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return Ended(
                os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, printed.read_text(errors="replace")
            )
        try:
            seconds = time.clock_gettime(clock)
        except OSError:
            continue
        if seconds >= at and not acted and act:
            acted = True
            act(pid)
        time.sleep(POLL_SECONDS)


def kill(pid: int) -> None:
    """`kill -9`, of the process and of all that it started."""
    os.killpg(pid, signal.SIGKILL)


def _start(words: list[str], printed: Path, own: bool) -> int:
    if own:
        with open(printed, "wb") as out:
            command = [sys.executable, "-m", "saemd", *words]
            return subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True).pid
    if pid := os.fork():
        return pid
    code = 70
    try:
        os.setsid()
        out = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["saemd", *words]
        from saemd.__main__ import main

        main()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0
