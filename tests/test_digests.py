"""Digests of files: computed once, and again for whatever change a file can show."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from saemd import digests as room
from saemd.digests import KEPT, digests


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """A file that counts as settled at once, and a process that knows no digest yet."""
    monkeypatch.setattr(room, "_SETTLED_SECONDS", -1.0)
    fresh(monkeypatch)
    path = tmp_path / "weights.bin"
    path.write_bytes(b"a" * 1000)
    (tmp_path / "cache").mkdir()
    return path


def fresh(monkeypatch) -> None:
    """As a new process begins."""
    monkeypatch.setattr(room, "_entries", {})
    monkeypatch.setattr(room, "_unsaved", {})


def right(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kept(cache_root: Path) -> dict:
    return json.loads((cache_root / KEPT).read_text())


def swap_digest(cache_root: Path) -> None:
    """Mark the kept digests, so that a caller can see where an answer comes from."""
    marked = {name: [status, "kept"] for name, (status, _) in kept(cache_root).items()}
    (cache_root / KEPT).write_text(json.dumps(marked))


def test_the_next_process_takes_the_kept_digest(file, tmp_path, monkeypatch):
    assert digests([file, file], tmp_path / "cache") == [right(file)] * 2
    swap_digest(tmp_path / "cache")
    fresh(monkeypatch)
    assert digests([file], tmp_path / "cache") == ["kept"]
    assert digests([file], None) == ["kept"]  # known in this process by now


@pytest.mark.parametrize("change", ["in place, times restored", "replaced", "longer", "touched"])
def test_a_changed_file_is_hashed_again(change, file, tmp_path, monkeypatch):
    digests([file], tmp_path / "cache")
    swap_digest(tmp_path / "cache")
    before = file.stat()
    time.sleep(0.02)
    if change == "replaced":
        (tmp_path / "other").write_bytes(b"b" * 1000)
        os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(tmp_path / "other", file)
    elif change == "touched":
        os.utime(file)
    else:
        file.write_bytes(b"b" * (1001 if change == "longer" else 1000))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests([file], tmp_path / "cache") == [right(file)]
    fresh(monkeypatch)
    assert digests([file], tmp_path / "cache") == [right(file)]


def test_a_file_that_has_just_changed_is_not_kept(file, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_SETTLED_SECONDS", 60.0)
    assert digests([file], tmp_path / "cache") == [right(file)]
    assert not (tmp_path / "cache" / KEPT).exists()
    assert not room._entries


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": [[1, 2], "x"]}', "null", "\ud800"])
def test_damaged_digests_are_hashed_again_and_replaced(content, file, tmp_path):
    (tmp_path / "cache" / KEPT).write_bytes(content.encode("utf-8", "surrogatepass"))
    assert digests([file], tmp_path / "cache") == [right(file)]
    assert list(kept(tmp_path / "cache")) == [str(file)]


def test_digests_of_files_that_are_gone_are_dropped(file, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"x")
    digests([file, other], tmp_path / "cache")
    other.unlink()
    file.write_bytes(b"y")
    digests([file], tmp_path / "cache")
    assert list(kept(tmp_path / "cache")) == [str(file)]


def test_a_folder_that_cannot_be_written_does_no_harm(file, tmp_path):
    (tmp_path / "plain").write_bytes(b"no folder")
    (tmp_path / "cache" / f".{KEPT}.lock").mkdir()  # the lock cannot be opened
    for cache_root in (tmp_path / "plain", tmp_path / "missing", tmp_path / "cache"):
        assert digests([file], cache_root) == [right(file)]
    assert not (tmp_path / "missing").exists()


def test_what_could_not_be_kept_is_kept_later(file, tmp_path):
    digests([file], tmp_path / "missing")
    (tmp_path / "missing").mkdir()
    digests([file], tmp_path / "missing")
    assert list(kept(tmp_path / "missing")) == [str(file)]


@pytest.mark.slow
def test_processes_add_to_the_same_digests(file, tmp_path):
    """None loses what another one kept; none reads a half-written file."""
    code = """
import sys
from pathlib import Path
from saemd import digests as room
room._SETTLED_SECONDS = -1.0
for path in sys.argv[2:]:
    room.digests([Path(path)], Path(sys.argv[1]))
"""
    files = [tmp_path / f"{i}.txt" for i in range(40)]
    for path in files:
        path.write_text(path.name)
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cache"), *map(str, files[i::4])])
        for i in range(4)
    ]
    assert [job.wait(timeout=60) for job in jobs] == [0] * 4
    assert {name: digest for name, (_, digest) in kept(tmp_path / "cache").items()} == {
        str(path): right(path) for path in files
    }
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [f".{KEPT}.lock", KEPT]


def test_threads_may_ask_at_once(file, tmp_path):
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.extend(digests([file], tmp_path / "cache"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [right(file)] * 8


def test_the_kept_digests_follow_the_umask(file, tmp_path):
    before = os.umask(0o027)
    try:
        digests([file], tmp_path / "cache")
    finally:
        os.umask(before)
    assert (tmp_path / "cache" / KEPT).stat().st_mode & 0o777 == 0o640


def test_long_hashing_shows_a_bar(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(room, "_SHOWN_BYTES", 1000)
    digests([file], tmp_path / "cache")
    assert "checksums of 1 files, once" in capsys.readouterr().err
