"""Calls to an object store through fsspec, with retries, and errors as one line that shows no credentials."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from saemd.errors import UserError, bad_value
from saemd.remote.urls import masked

Result = TypeVar("Result")
DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds between the tries of one call: two minutes in all
CHECK_DELAYS = (1.0, 2.0)  # of the first call to a store, whose failure is more likely to be permanent
EXTRAS = {"s3": "pip install 'saemd[s3]'", "gs": "pip install 'saemd[gcs]'", "gcs": "pip install 'saemd[gcs]'"}
_CLIENTS = {
    "aiobotocore", "aiohttp", "asyncio", "botocore", "fsspec", "gcsfs", "google", "httpcore", "httpx",
    "huggingface_hub", "requests", "urllib3",
}  # fmt: skip  # the packages whose errors are the store's or the connection's


class MissingError(UserError):
    """The store has no such bucket or file."""


def filesystem(key: str, url: str) -> tuple[Any, str]:
    """fsspec's filesystem of a URL, and the path in it. Raises `UserError` where no package reads its protocol."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        raise bad_value(key, url, f"no store is known by {protocol}://; use s3://, gs://, hf://, or a folder") from None
    except ImportError as error:
        raise bad_value(key, url, f"its client is not installed; {EXTRAS.get(protocol, _line(error))}") from None
    return retried(url, lambda: fsspec.url_to_fs(url), CHECK_DELAYS)


def opened(url: str) -> tuple[Any, str]:
    """As `filesystem`, for a URL whose protocol was checked before."""
    return filesystem("url", url)


def check_store(key: str, url: str, *, writes: bool) -> None:
    """Raise `UserError` where the store cannot be reached, read, or, if it is to be, written. Leaves no file there."""
    fs, path = filesystem(key, url)
    probe = f"{path}/.write-check-{secrets.token_hex(4)}"
    try:
        if writes:
            retried(url, lambda: fs.pipe_file(probe, b"x"), CHECK_DELAYS)
            retried(url, lambda: fs.rm_file(probe), CHECK_DELAYS)
        else:
            top = "/".join(path.strip("/").split("/")[: 3 if url.startswith("hf://") else 1])  # a repository, a bucket
            try:
                retried(url, lambda: fs.ls(path, detail=False), CHECK_DELAYS)
            except MissingError:  # an empty folder is none
                retried(url, lambda: fs.ls(top, detail=False), CHECK_DELAYS)
    except UserError as error:
        raise bad_value(key, url, str(error).removeprefix(f"{masked(url)}: ")) from error


def retried(url: str, action: Callable[[], Result], delays: Sequence[float] | None = None) -> Result:
    """The result of `action`, which calls the store. What fails for a moment is tried again after each of `delays`.

    Raises `MissingError`, `FileExistsError`, and `UserError` for everything else that the store or the connection
    refuses. Other errors are defects, and are passed on.
    """
    waits = DELAYS if delays is None else delays
    for i in range(len(waits) + 1):
        try:
            return action()
        except Exception as error:
            if isinstance(error, UserError | FileExistsError) or not _is_of_store(error):
                raise
            if refusal := _refusal(url, error):
                raise refusal from error
            if i == len(waits):
                what = f"the store could not be reached in {i + 1} tries ({_line(error)})"
                raise UserError(f"{masked(url)}: {what}; the same command goes on from what is there") from error
            time.sleep(waits[i])
    raise AssertionError


def upload(path: Path, url: str) -> str:
    """Upload a file; returns `version_of` the object. An object is never there in part."""
    fs, target = opened(url)

    def put() -> str:
        fs.put_file(str(path), target)
        fs.invalidate_cache()
        information = fs.info(target)
        if information["size"] != (size := path.stat().st_size):
            raise ConnectionError(f"{information['size']:,} of {size:,} bytes arrived")
        return version_of(information)

    return retried(url, put)


def download(url: str, path: Path) -> str:
    """Download a file aside and rename it to `path`; returns `version_of` the object. Raises `MissingError`."""
    fs, source = opened(url)
    aside = path.with_name(f".partial-{secrets.token_hex(4)}-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)

    def get() -> str:
        fs.invalidate_cache()
        information = fs.info(source)
        fs.get_file(source, str(aside))
        if (size := aside.stat().st_size) != information["size"]:
            raise ConnectionError(f"{size:,} of {information['size']:,} bytes arrived")
        return version_of(information)

    try:
        version = retried(url, get)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return version


def listed(url: str) -> dict[str, Any]:
    """What the store says of every file below a folder, by the file's path relative to it; empty for no folder."""
    fs, path = opened(url)

    def find() -> dict[str, Any]:
        fs.invalidate_cache()
        return fs.find(path, detail=True)

    try:
        found = retried(url, find)
    except MissingError:
        return {}
    prefix = f"{path.strip('/')}/"
    names = {name.strip("/"): information for name, information in found.items()}
    return {name.removeprefix(prefix): names[name] for name in names if name.startswith(prefix)}


def version_of(information: dict[str, Any]) -> str:
    """What tells two contents of an object apart: the store's own mark, and the size."""
    marks = (information.get(key) for key in ("ETag", "etag", "md5Hash", "blob_id", "created", "mtime"))
    mark = next((mark for mark in marks if mark), "")
    return f"{mark.timestamp() if isinstance(mark, datetime) else mark} {information['size']}"


def _is_of_store(error: Exception) -> bool:
    names = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError | ValueError) or bool(names & _CLIENTS)


def _refusal(url: str, error: Exception) -> UserError | None:
    """The error that no second try would mend; None where one may."""
    names = " ".join(kind.__name__ for kind in type(error).__mro__)
    code = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, FileNotFoundError):
        return MissingError(f"{masked(url)}: the store has no such bucket or file; check the name")
    if "Credentials" in names or "TokenRetrieval" in names or "Profile" in names:
        return UserError(f"{masked(url)}: this machine has no credentials for the store; log in with its own client")
    if isinstance(error, PermissionError) or str(code) in ("401", "403"):
        what = f"the store refuses access ({_line(error)})"
        return UserError(f"{masked(url)}: {what}; check the credentials and their rights")
    if isinstance(error, ValueError) or "ParamValidationError" in names:
        return UserError(f"{masked(url)}: the store refuses the name ({_line(error)})")
    return None


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return masked(lines[0])[:160] if lines else type(error).__name__
