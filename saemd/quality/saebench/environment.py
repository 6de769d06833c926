"""Where SAEBench's environment is, which `make saebench` builds, and whether it holds the right packages."""

import os
import subprocess
from functools import lru_cache
from pathlib import Path

from saemd.errors import UserError, bad_value

PACKAGE = Path(__file__).resolve().parents[2]  # saemd
REPOSITORY = PACKAGE.parent  # or, of a wheel, the folder that it is installed in
LOCK = Path(__file__).resolve().parent / "requirements.lock"  # in a wheel alone
VARIABLE = "SAEMD_SAEBENCH"  # another place for the environment
SAE_BENCH = "0.6.0"
PACKAGES = ("sae-bench", "sae-lens", "sae-probes", "transformer-lens", "transformers", "datasets", "torch")


def environment() -> Path:
    """The environment's folder: $SAEMD_SAEBENCH, by default .venv-saebench beside this code."""
    return Path(os.environ.get(VARIABLE) or REPOSITORY / ".venv-saebench")


def how_to_build() -> str:
    """The command that builds it. An installed wheel has no Makefile, and brings the list of pinned packages itself."""
    if not LOCK.is_file():
        return "`make saebench`"
    place = os.environ.get(VARIABLE) or "~/saebench"
    torch = next(line for line in LOCK.read_text().splitlines() if line.startswith("torch=="))
    pip = f"{place}/bin/pip install"
    return f"`python3.11 -m venv {place} && {pip} {torch} && {pip} --no-deps -r {LOCK}` and set {VARIABLE}={place}"


def link_package(folder: Path) -> Path:
    """Fill `folder`, for PYTHONPATH, with a link to this package alone: beside a wheel's package lie others."""
    folder.mkdir(exist_ok=True)
    (folder / "saemd").unlink(missing_ok=True)
    (folder / "saemd").symlink_to(PACKAGE)
    return folder


def python() -> Path:
    """Its interpreter. Raises `UserError` where there is none."""
    interpreter = environment() / "bin" / "python"
    if not interpreter.is_file():
        raise UserError(f"SAEBench's environment {environment()} is missing: run {how_to_build()} (2.3 GB, once)")
    return interpreter


def versions() -> dict[str, str]:
    """The versions of `PACKAGES`. Raises `UserError` where one is missing, or where SAEBench is of another version."""
    return _versions(python())


@lru_cache
def _versions(interpreter: Path) -> dict[str, str]:
    code = f"from importlib.metadata import version\nfor name in {PACKAGES}: print(name, version(name))"
    ran = subprocess.run([interpreter, "-c", code], capture_output=True, text=True)
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or ["it does not start"])[-1]
        raise UserError(f"SAEBench's environment {environment()} is incomplete ({reason}): run {how_to_build()} again")
    installed = dict(line.split()[:2] for line in ran.stdout.splitlines())
    if (sae_bench := installed["sae-bench"]) != SAE_BENCH:
        raise bad_value("sae-bench", sae_bench, f"{SAE_BENCH} is wanted: remove {environment()}, run {how_to_build()}")
    return installed
