"""A job's processes: what they are told, whose error is raised, and that none stays behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from saemd.errors import UserError
from saemd.training.processes import in_processes
from tests.training import calls


def test_processes_are_numbered_and_the_first_one_answers():
    assert in_processes(calls.numbers, None, 2) == ["0", "0", "2", "127.0.0.1"]


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("refused", UserError, "^l0=0: use more$"),
        ("full", OSError, "No space left"),
        ("failed", RuntimeError, "device 1 failed\nTraceback.*\n(.*\n)*ZeroDivisionError"),
        ("died", RuntimeError, "device 1 ended with code 3\nwhat it printed"),
    ],
)
def test_the_error_of_a_process_ends_all(how, kind, text):
    began = time.monotonic()
    with pytest.raises(kind, match=text):
        in_processes(calls.fail_in_second, how, 2)
    assert time.monotonic() - began < 250  # the first one's 500 seconds are not waited for


def test_sigterm_lets_the_first_process_save(tmp_path):
    def stop() -> None:
        while len([*tmp_path.iterdir()]) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        in_processes(calls.save_at_sigterm, tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "saved 0"]
    assert not any(Path(f"/proc/{(tmp_path / rank).read_text()}").exists() for rank in ("0", "1"))
    assert signal.getsignal(signal.SIGTERM) is before
