"""The wheel that `pip install .` builds holds all that the entries need, from any folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest

import saemd

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-deps", "--no-index", "--no-build-isolation"]


class Installed(NamedTuple):
    """A wheel, and the folder that it is installed in."""

    wheel: Path
    folder: Path

    def run(self, *command: str, **surroundings: str) -> subprocess.CompletedProcess[str]:
        """Run the installed package from another folder, with the dependencies of this environment."""
        env = {**os.environ, "PYTHONPATH": str(self.folder), **surroundings}
        return subprocess.run([sys.executable, *command], cwd="/", env=env, capture_output=True, text=True)


def copy_of_sources(place: Path) -> Path:
    """What git has, or would take, so that building leaves nothing in the tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
    return place


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """Of a source archive's wheel: it holds no more than a wheel of the tree, and may lack something."""
    root = tmp_path_factory.mktemp("wheel")
    sources = copy_of_sources(root / "sources")
    build = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(root)], cwd=sources, check=True, stdout=subprocess.DEVNULL)
    (archive,) = root.glob("saemd-*.tar.gz")
    subprocess.run([*PIP, "wheel", *OFFLINE, "--wheel-dir", str(root), str(archive)], check=True, env=clean())
    (wheel,) = root.glob("*.whl")
    folder = root / "installed"
    subprocess.run([*PIP, "install", *OFFLINE, "--target", str(folder), str(wheel)], check=True, env=clean())
    return Installed(wheel, folder)


def clean() -> dict[str, str]:
    """This environment, without a path on which pip would find an installed saemd."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_the_wheel_holds_the_package_alone_and_all_of_it(installed):
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = set(wheel.namelist())
        about = f"saemd-{saemd.__version__}.dist-info"
        metadata = Parser().parsestr(wheel.read(f"{about}/METADATA").decode())
    assert {name.split("/")[0] for name in names} == {"saemd", about}
    expected = {f"saemd/{path.relative_to(ROOT / 'saemd')}" for path in (ROOT / "saemd").rglob("*.py")}
    expected |= {f"saemd/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    expected |= {"saemd/report/page.css", "saemd/quality/knowledge/templates.json"}
    assert expected <= names
    assert f"{about}/licenses/LICENSE" in names
    assert metadata["Version"] == saemd.__version__
    assert "# saemd" in str(metadata.get_payload())


def test_a_sweep_and_its_comparison_run_from_another_folder(installed, world, tmp_path):
    used = installed.run("-c", "import saemd; print(saemd.__file__)")
    assert used.stdout.strip() == str(installed.folder / "saemd" / "__init__.py")
    runs = tmp_path / "runs"
    words = [*world, f"run_root={runs}", "init=uniform", "seed=0,1", "tokens=1024"]
    words.append("recipe.fast=false")  # whose kernels numba would compile again in this folder
    sweep = installed.run("-m", "saemd.train", "-m", *words)
    assert sweep.returncode == 0, sweep.stderr
    (runs / "stability" / "stability.json").unlink()
    compared = installed.run("-m", "saemd.stability", f"run_root={runs}")
    assert compared.returncode == 0, compared.stderr
    assert len(json.loads((runs / "stability" / "stability.json").read_text())) == 1
    out = tmp_path / "out"
    exported = installed.run("-m", "saemd.export", f"run_root={runs}", f"out={out}")
    assert exported.returncode == 0, exported.stderr
    assert len(list(out.rglob("sae_weights.safetensors"))) == 2


def test_the_console_command_is_installed(installed):
    said = installed.run(str(installed.folder / "bin" / "saemd"), "--version")
    assert said.stdout == f"saemd {saemd.__version__}\n", said.stderr


def test_without_saebenchs_environment_the_commands_that_build_it_are_said(installed, tmp_path):
    asked = "from saemd.quality.saebench import environment; environment.versions()"
    said = installed.run("-c", asked, SAEMD_SAEBENCH=str(tmp_path / "none")).stderr.splitlines()[-1]
    lock = installed.folder / "saemd" / "quality" / "saebench" / "requirements.lock"
    assert f"--no-deps -r {lock}` and set SAEMD_SAEBENCH={tmp_path / 'none'}" in said
    assert lock.read_text() == (ROOT / "requirements-saebench.lock").read_text()


def test_an_installed_package_does_not_claim_another_projects_commit(installed, tmp_path):
    """As of a virtual environment inside a project's work tree."""
    shutil.copytree(installed.folder, tmp_path / "site-packages")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "another project"], check=True)
    code = "from saemd.training import record; print(record.__file__, record._git_commit())"
    ran = Installed(installed.wheel, tmp_path / "site-packages").run("-c", code)
    file = tmp_path / "site-packages" / "saemd" / "training" / "record.py"
    assert ran.stdout.split() == [str(file), "None"], ran.stderr


def test_an_editable_install_is_the_source_tree(tmp_path):
    sources, folder = copy_of_sources(tmp_path / "sources"), tmp_path / "installed"
    editable = [*PIP, "install", *OFFLINE, "--target", str(folder), "--editable", str(sources)]
    subprocess.run(editable, check=True, env=clean())
    paths = "import site, sys; site.addsitedir(sys.argv[1]); sys.path += sys.argv[2:]"
    code = f"{paths}; from saemd.arguments import CONF; print(CONF)"
    path = [str(folder), *(entry for entry in sys.path if entry.endswith("site-packages"))]
    ran = Installed(folder, folder).run("-I", "-S", "-c", code, *path)  # -S: no other editable install of saemd
    assert ran.stdout.strip() == str(sources / "conf"), ran.stderr
