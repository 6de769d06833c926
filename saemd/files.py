"""Files that are written completely or not at all, and whose damage is reported in one clear line."""

import errno
import json
import math
import os
import re
import secrets
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from saemd.checksums import KEY, ChecksumError, of_tensors, sealed, without_checksum
from saemd.errors import UserError
from saemd.remote.mirror import push

PARTIAL = ".partial-"  # the prefix of files that are being written
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no room on the device, in a quota, or for a file of this size
_STALE_SECONDS = 3600.0
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors and other Rust libraries show the system's error


class DamagedFileError(UserError):
    """A file that cannot be used: its `path`, `what` is wrong with it, and the remedy."""

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        super().__init__(f"{path}: {what}; {remedy}")
        self.path, self.what = path, what


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file in `path`'s folder, to be filled in the block. If the block succeeds, it replaces `path`.

    Otherwise it is removed. It has `path`'s suffix, a name that no other process or thread uses, and the mode that the
    umask leaves of 0666, whatever the writer does. It is flushed to the disk before it is renamed, since a power cut
    could otherwise leave an empty file in the place of a good one. A file of a folder in a store is uploaded. Raises
    `UserError` where it cannot be written, as on a full disk.
    """
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(partial, mode)  # safetensors writes a file of its own, mode 0600, and renames it
        os.replace(partial, path)
    except Exception as error:
        if (cause := _system_error(error)) is None:
            raise
        raise unwritable(path, cause) from error
    finally:
        if os.path.exists(partial):
            partial.unlink()
    push(path)


def write_text(path: Path, text: str) -> None:
    """`path` with this content, in UTF-8; see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Strict JSON: what is not finite becomes null, and a mapping, or each row of a table, gets a checksum.

    See `replacing`.
    """
    write_text(path, json.dumps(sealed(_finite(value)), indent=1, allow_nan=False) + "\n")


def save_torch(value: Any, path: Path) -> None:
    """`torch.save`, flushed to the disk. A failed write raises the system's error, not torch's `unexpected pos`."""
    with open(path, "wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from error
        file.flush()
        os.fsync(file.fileno())


def remove_partial(folder: Path) -> None:
    """Remove the half-written files of killed processes from `folder`. The caller holds the folder's lock."""
    for pattern in (f"{PARTIAL}*", ".*.partial", "*.tmp", ".tmp??????"):  # ours, of earlier versions, safetensors' own
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove the half-written files below `folder` that nothing has written to for an hour.

    For folders that several processes write to at once, where a younger file may be another one's.
    """
    for path in folder.rglob(f"{PARTIAL}*"):
        with suppress(FileNotFoundError):  # another process has removed it, or has finished it
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def check_writable(folder: Path) -> None:
    """Make `folder` and write to it, without leaving a file. Raises `UserError` where that fails.

    Permissions alone are no proof: a disk may be mounted read-only, or belong to another machine.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise unwritable(folder, error) from error


@contextmanager
def refuse_full_disk(path: Path) -> Iterator[None]:
    """In the block, which writes `path`, a full disk becomes a `UserError`."""
    try:
        yield
    except Exception as error:
        cause = _system_error(error)
        if cause is None or cause.errno not in _FULL:
            raise
        raise unwritable(path, cause) from error


def is_full_disk(error: BaseException) -> bool:
    """Whether a write failed because the disk is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def unwritable(path: Path, error: OSError) -> UserError:
    """The error for a file or folder that cannot be written."""
    if error.errno in _FULL:
        what = f"the disk is full ({error.strerror}); make room, and the same command goes on from what is there"
        return UserError(f"{path}: {what}")
    return UserError(f"{path}: cannot be written ({error.strerror}); mend that, or choose another folder")


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file. Raises `DamagedFileError` where it cannot be read."""
    return _read(path, json.loads, "JSON", remedy)


def read_yaml(path: Path, remedy: str) -> Any:
    """The content of a YAML file of plain values. Raises `DamagedFileError` where it cannot be read."""
    return _read(path, yaml.safe_load, "YAML", remedy)


def read_npz(path: Path, names: Sequence[str], remedy: str) -> list[np.ndarray]:
    """These arrays of an npz file. Raises `DamagedFileError` where one cannot be read; pickled objects are refused."""
    return list(named_arrays(path, names, remedy).values())


def named_arrays(path: Path, names: Sequence[str], remedy: str, optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """As `read_npz`, by their names; those of `optional` as well, where the file has them."""
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # numpy leaves the end of an array unread, and with it the checksum
                raise zipfile.BadZipFile(f"{damaged} differs from its checksum")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in (*names, *(name for name in optional if name in file.files))}
    except Exception as error:  # of a damaged file: anything, from numpy's reader or the zip's
        raise DamagedFileError(path, f"cannot be read ({one_line(error)})", remedy) from error


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, about: str = "") -> None:
    """A safetensors file with the checksum of its tensors and of `about` in its header."""
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={KEY: of_tensors(plain, about)})


def read_tensors(
    path: Path, remedy: str = "remove it, and the same command makes it again", about: str = ""
) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises `DamagedFileError` where it cannot be read.

    Also where it has a checksum that is not that of its tensors and of `about`; a file of another program has none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {}).get(KEY)
        tensors = load_file(path)
        if checksum is not None and checksum != of_tensors(tensors, about):
            raise ChecksumError
        return tensors
    except (OSError, SafetensorError, ValueError, KeyError, OverflowError, TypeError) as error:
        raise DamagedFileError(path, f"cannot be read ({one_line(error)})", remedy) from error


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _read(path: Path, parse: Callable[[str], Any], form: str, remedy: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DamagedFileError(path, f"cannot be read ({error.strerror})", remedy) from error
    except UnicodeDecodeError as error:
        raise DamagedFileError(path, f"holds bytes that are not UTF-8 (at {error.start})", remedy) from error
    if not text.strip():
        raise DamagedFileError(path, "is empty", remedy)
    try:
        return without_checksum(parse(text))
    except ChecksumError as error:
        raise DamagedFileError(path, str(error), remedy) from error
    except (ValueError, RecursionError, OverflowError, yaml.YAMLError) as error:
        raise DamagedFileError(path, f"is not {form} ({one_line(error)})", remedy) from error


def _system_error(error: Exception) -> OSError | None:
    """The system's error behind `error`, even if a library shows it only in its message."""
    if isinstance(error, OSError):
        return error if error.errno else None
    number = _OS_ERROR.search(str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
