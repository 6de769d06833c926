"""Locks that one process holds alone, and locks that several hold together."""

from __future__ import annotations

import errno
import fcntl
import os
from functools import partial
from pathlib import Path

import pytest

from saemd import locks
from saemd.errors import UserError
from saemd.locks import locked, shared


class WaitingError(Exception):
    """Raised where a lock is taken, so that nothing waits."""


def wait() -> None:
    raise WaitingError


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_ALONE_SECONDS", 0.0)


def test_sharers_hold_it_together_and_the_first_one_prepares(tmp_path: Path):
    prepared = list[int]()
    first, second = (shared(tmp_path / "lock", partial(prepared.append, i), wait) for i in (1, 2))
    with first, second:
        assert prepared == [1]
    with shared(tmp_path / "lock", lambda: prepared.append(3), wait):
        assert prepared == [1, 3]


def test_sharers_keep_out_who_is_alone_and_the_other_way_round(tmp_path: Path):
    with shared(tmp_path / "lock", lambda: None), pytest.raises(WaitingError), locked(tmp_path / "lock", wait):
        pass
    with locked(tmp_path / "lock"), pytest.raises(WaitingError), shared(tmp_path / "lock", lambda: None, wait):
        pass
    with locked(tmp_path / "lock", wait):
        pass


def test_nobody_shares_before_the_first_one_has_prepared(tmp_path: Path):
    def prepare() -> None:
        with pytest.raises(WaitingError), shared(tmp_path / "lock", lambda: None, wait):
            pass

    with shared(tmp_path / "lock", prepare, wait):
        pass


def test_a_disk_without_locks_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    line = r"lock: this disk has no file locks \(Function not implemented\); mount"
    with pytest.raises(UserError, match=line), locked(tmp_path / "lock"):
        pass
