"""A job with several devices, started as one command: a new process for each device.

Not multiprocessing's: its processes run the main module again, which in a user's script or notebook may be anything.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from saemd.errors import UserError

PROGRAM = "from saemd.training.processes import work; work()"
SAVE_SECONDS = 120.0  # that the first process has to save its checkpoint and end; then it is killed
POLL_SECONDS = 0.05


def in_processes(function: Callable[[Any], Any], argument: Any, devices: int) -> Any:
    """Call `function(argument)` in `devices` processes, numbered as torchrun numbers them; returns what rank 0 returns.

    Ctrl-C and SIGTERM stop rank 0, which saves its checkpoint, and then the others. Where one of them fails, the others
    are killed, and its error is raised: `UserError`, `OSError` of a full disk, or `RuntimeError` with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder, _terminated_as_interrupted():
        answers = [Path(folder) / str(rank) for rank in range(devices)]
        processes = [_started(rank, devices, port, answers[rank]) for port in [_free_port()] for rank in range(devices)]
        try:
            for process, answer in zip(processes, answers, strict=True):
                assert process.stdin
                with suppress(BrokenPipeError):  # of one that has failed already, which is found below
                    process.stdin.write(pickle.dumps((function, argument, answer)))
                    process.stdin.flush()
            while (ended := _ended(processes, answers)) is None:
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            processes[0].terminate()
            with suppress(subprocess.TimeoutExpired):
                processes[0].wait(SAVE_SECONDS)
            raise
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        return _outcome(ended, processes[ended], answers[ended])


def _started(rank: int, devices: int, port: int, answer: Path) -> subprocess.Popen[bytes]:
    """A process that reads its task from stdin. Of ranks above 0, what they print is kept beside their answer."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": devices, "MASTER_PORT": port}
    environment = {
        **os.environ, **{name: str(value) for name, value in numbers.items()}, "MASTER_ADDR": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    with open(answer.with_suffix(".log"), "wb") as log:
        output = None if rank == 0 else log
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment,
            start_new_session=True,
        )  # fmt: skip


def _ended(processes: list[subprocess.Popen[bytes]], answers: list[Path]) -> int | None:
    """The rank whose end is that of the job; None while it runs.

    If one has failed, it is the first that answered, since the others fail for want of it. One that died has no answer.
    """
    codes = [process.poll() for process in processes]
    if not any(codes):
        return 0 if codes[0] == 0 else None
    times = {rank: answer.stat().st_mtime_ns for rank, answer in enumerate(answers) if answer.exists()}
    died = {rank: 0 for rank, code in enumerate(codes) if code and rank not in times}
    ends = times | died
    return min(ends, key=lambda rank: ends[rank])


def _outcome(rank: int, process: subprocess.Popen[bytes], answer: Path) -> Any:
    if not answer.is_file():
        log = answer.with_suffix(".log").read_text(errors="replace")
        raise RuntimeError(f"the process of device {rank} ended with code {process.returncode}\n{log}".rstrip())
    kind, value = pickle.loads(answer.read_bytes())
    if kind == "interrupted":
        raise KeyboardInterrupt
    if kind == "refused":
        raise UserError(value)
    if kind == "raised":
        raise value
    if kind == "failed":
        raise RuntimeError(f"the process of device {rank} failed\n{value}")
    return value


def work() -> None:
    """What each process does: the call that its parent writes to stdin, until it ends or the parent does."""
    warnings.filterwarnings("ignore", module="lightning")  # as `saemd.cli` does
    function, argument, answer = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code = 1
    try:
        outcome, code = ("done", function(argument)), 0
    except KeyboardInterrupt:
        outcome = "interrupted", None
    except UserError as error:
        outcome = "refused", str(error)
    except Exception as error:
        from saemd.files import is_full_disk  # and with it torch, which is here if the function needs it

        outcome = ("raised", error) if is_full_disk(error) else ("failed", traceback.format_exc())
    partial = answer.with_suffix(".partial")
    partial.write_bytes(pickle.dumps(outcome))
    partial.rename(answer)
    sys.exit(code)


def _end_with_parent() -> None:
    """stdin ends with the parent, however that ended: then rank 0 saves, and no process stays behind."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    if os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVE_SECONDS)
    os._exit(1)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM raises `KeyboardInterrupt`, where this is the thread that may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
