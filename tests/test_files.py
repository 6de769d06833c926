"""Files are written whole or not at all, whatever ends the writing; every one has the mode that the umask leaves."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saemd.errors import UserError
from saemd.files import (
    DamagedFileError,
    read_json,
    read_npz,
    read_yaml,
    remove_stale,
    replacing,
    save_torch,
    write_json,
    write_text,
)

TENSOR = torch.zeros(100, 100)
WRITERS = {
    "text": lambda path: path.write_text("x" * 40_000),
    "torch": lambda path: save_torch({"x": TENSOR}, path),
    "safetensors": lambda path: save_file({"x": TENSOR}, path),
    "numpy": lambda path: np.savez(path, x=TENSOR.numpy()),
}


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """A limit of the system on the bytes of a file: writes end as on a full disk, with "File too large"."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_the_mode_is_what_the_umask_leaves(kind, umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file.npz") as aside:
            WRITERS[kind](aside)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.npz").stat().st_mode) == mode


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("size", [500, 20_000])  # at torch's first write, and in the middle
def test_a_full_disk_leaves_the_earlier_file_and_says_so(kind, size, tmp_path):
    path = tmp_path / "file.npz"
    path.write_text("earlier")
    full = pytest.raises(UserError, match=r"file.npz: the disk is full .*make room")
    with no_file_above(size), full as raised, replacing(path) as aside:
        WRITERS[kind](aside)
    assert "\n" not in str(raised.value)
    assert [found.name for found in tmp_path.iterdir()] == ["file.npz"]
    assert path.read_text() == "earlier"


@pytest.mark.parametrize("size", [0, 100, 1_000, 5_000, 39_990, 40_700, 41_000])
def test_no_checkpoint_that_was_cut_short_counts_as_written(size, tmp_path):
    """Whichever write of `torch.save` is the one that fails, down to the flush at the end."""
    with no_file_above(size), pytest.raises(UserError, match="the disk is full"), replacing(tmp_path / "x.pt") as aside:
        save_torch({"x": TENSOR}, aside)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_what_the_system_refuses_is_one_line(number, line, tmp_path, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)  # where a disk behind a network says that it is full
    with pytest.raises(UserError, match=rf"x.json: {line} \({os.strerror(number)}\); "):
        write_json(tmp_path / "x.json", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_of_a_write_that_was_interrupted(error, tmp_path):
    def interrupted(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(error), replacing(tmp_path / "x") as aside:
        interrupted(aside)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with replacing(tmp_path / "x") as one, replacing(tmp_path / "x") as two:
        one.write_text("one")
        two.write_text("two")
    assert (tmp_path / "x").read_text() == "one"  # the last to end


def test_only_old_half_written_files_are_removed_where_others_write(tmp_path):
    (tmp_path / "pairs").mkdir()
    old, young = tmp_path / "pairs" / ".partial-1234-a.npz", tmp_path / ".partial-5678-b.json"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    remove_stale(tmp_path)
    assert [path.name for path in tmp_path.rglob(".partial-*")] == [young.name]


def test_a_folder_in_the_place_and_a_file_in_the_way(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "x"):
        with pytest.raises(UserError, match="cannot be written"):
            write_text(path, "x")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("content", [b"", b" \n", b"{", b"\xff\xfe", b"[" * 100_000, b"a: b: c"])
def test_what_cannot_be_parsed_is_one_line(content, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(content)
    for read in (read_json, read_yaml):
        with pytest.raises(DamagedFileError, match=r"/x: .*; mend it$") as raised:
            read(path, "mend it")
        assert "\n" not in str(raised.value)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DamagedFileError, match=r"x.npz: cannot be read \(Object arrays"):
        read_npz(tmp_path / "x.npz", ["x"], "mend it")


def test_a_file_without_the_right_to_read_it_says_so(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_text", refuse)  # root may read everything
    with pytest.raises(DamagedFileError, match=r"x: cannot be read \(Permission denied\); mend it"):
        read_json(tmp_path / "x", "mend it")
