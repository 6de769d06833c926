"""Folders that are made once: permissions, read-only places, full disks."""

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from saemd.errors import UserError
from saemd.once import made_once
from tests.ordinary_user import read_only


def fill(folder: Path) -> None:
    """As transformers and safetensors do: files and folders for their owner alone."""
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    inner = Path(tempfile.mkdtemp(dir=folder))
    (inner / "plain").touch()
    (inner / "private").touch(0o600)
    (folder / "link").symlink_to("model.safetensors")


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_the_umask_decides_who_may_read(umask, file, folder, tmp_path):
    before = os.umask(umask)
    try:
        made = made_once(tmp_path / "made", fill)
    finally:
        os.umask(before)
    paths = [made, *made.rglob("*")]
    assert len(paths) == 6
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (folder if path.is_dir() else file), path


def test_a_folder_that_is_there_needs_no_lock(tmp_path):
    made = made_once(tmp_path / "made", fill)
    (tmp_path / ".made.lock").unlink()
    with read_only(tmp_path):
        assert made_once(made, fill) == made
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_read_only_place_is_one_line(tmp_path):
    place = tmp_path / "models"
    place.mkdir()
    with (
        read_only(tmp_path),
        pytest.raises(UserError, match=r"models: cannot be written \(Permission denied\); mend that"),
    ):
        made_once(place / "made", fill)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/models: cannot be written \(Not a directory\)"):
        made_once(tmp_path / "file" / "models" / "made", fill)


def write_to_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        full.write(b"x")


def save_to_full_disk() -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("write", [write_to_full_disk, save_to_full_disk])
def test_a_full_disk_is_one_line_and_leaves_nothing(write, tmp_path):
    def fill_up(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        write()

    with pytest.raises(UserError, match=r"made: the disk is full .*make room"):
        made_once(tmp_path / "made", fill_up)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_other_errors_stay_what_they_are(tmp_path):
    def fail(folder: Path) -> None:
        shutil.copy(tmp_path / "missing", folder)

    with pytest.raises(FileNotFoundError) as error:
        made_once(tmp_path / "made", fail)
    assert error.value.errno == errno.ENOENT
