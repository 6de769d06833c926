"""Calls to a store: what is tried again, and what its errors say."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from saemd.errors import UserError
from saemd.remote import store


class Failing:
    """Raises the errors in turn, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = [*errors], 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_a_broken_connection_is_tried_again() -> None:
    action = Failing(ConnectionResetError("reset"), TimeoutError())
    assert store.retried("memory://b", action) == "done"
    assert action.calls == 3


def test_one_that_stays_broken_is_one_line_that_says_what_to_do() -> None:
    action = Failing(*[ConnectionResetError("reset\nby https://peer/x?Signature=secret")] * 5)
    with pytest.raises(UserError, match=r"^memory://b: .*in 3 tries \(reset\); the same command goes on") as refused:
        store.retried("memory://b", action)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError("x"), "no such bucket or file"),
        (PermissionError("Access Denied"), r"refuses access \(Access Denied\); check the credentials"),
        (type("NoCredentialsError", (OSError,), {})("Unable to locate credentials"), "no credentials"),
        (ValueError("bad name"), r"refuses the name \(bad name\)"),
    ],
)
def test_what_no_second_try_mends_is_said_at_once(error: Exception, said: str) -> None:
    action = Failing(error)
    with pytest.raises(UserError, match=said):
        store.retried("memory://b", action)
    assert action.calls == 1


def test_a_defect_stays_one() -> None:
    with pytest.raises(TypeError):
        store.retried("memory://b", Failing(TypeError("x")))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nostore://b/c", r"no store is known by nostore://; use s3://"),
        ("abfs://b/c", "its client is not installed"),
        ("memory://nobucket/c", "no such bucket"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_in_one_line(bucket: str, url: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"^run_root={url}: .*{said}"):
        store.check_store("run_root", url, writes=False)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> None:
        raise ImportError(f"Install {protocol}fs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    for protocol, extra in (("s3", "s3"), ("gs", "gcs")):
        with pytest.raises(UserError, match=rf"pip install 'saemd\[{extra}\]'"):
            store.check_store("cache_root", f"{protocol}://b/c", writes=True)


def test_the_check_leaves_nothing(bucket: str) -> None:
    store.check_store("run_root", f"{bucket}/runs", writes=True)
    assert store.listed(bucket) == {}


def test_a_cut_transfer_is_made_again(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    memory = fsspec.filesystem("memory")
    put, get = memory.put_file, memory.get_file
    cuts: list[bool] = []

    def cut_put(source: str, target: str) -> None:
        put(source, target)
        if cuts.pop():
            memory.pipe_file(target, b"012")

    def cut_get(source: str, target: str) -> None:
        get(source, target)
        if cuts.pop():
            Path(target).write_bytes(b"")

    monkeypatch.setattr(memory, "put_file", cut_put)
    monkeypatch.setattr(memory, "get_file", cut_get)
    cuts[:] = [False, True]
    store.upload(tmp_path / "a", f"{bucket}/a")
    assert not cuts
    cuts[:] = [False, True]
    store.download(f"{bucket}/a", tmp_path / "b")
    assert not cuts
    assert (tmp_path / "b").read_bytes() == b"0123456789"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".partial")]
