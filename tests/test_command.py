"""The console command `saemd`, which `python -m saemd` is too: its subcommands, help, version and errors."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import saemd
from saemd.__main__ import MODULES, help_text, main


@pytest.fixture
def console(monkeypatch, capsys):
    """Run the command in this process; returns its exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["saemd", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_overview_names_every_command(words, console):
    code, out, err = console(*words)
    assert (code, err) == (0, "")
    for name in MODULES:
        assert f"\n    saemd {name} " in out


@pytest.mark.parametrize("name", MODULES)
def test_a_commands_help_is_the_docstring_of_its_module(name, console):
    code, out, _ = console(name, "--help")
    module = import_module(MODULES[name])
    assert code == 0
    assert out.startswith((module.__doc__ or "").split("\n", 1)[0])
    assert f"\n    saemd {name}" in out
    assert help_text(name) == (module.__doc__ or "").rstrip()


def test_help_does_not_import_what_the_command_needs():
    code = "import sys; sys.argv = ['saemd', 'train', '--help']; from saemd.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    assert "saemd train -m" in done.stdout
    assert "saemd.__main__" in done.stderr
    assert not any(f" {module}\n" in done.stderr for module in ("torch", "hydra", "numpy"))


def test_the_version(console):
    assert console("--version") == (0, f"saemd {saemd.__version__}\n", "")


@pytest.mark.parametrize("word", ["trian", "init=mirror", "-m"])
def test_an_unknown_command_is_one_line(word, console):
    known = "train, plan, cache, stability, evaluate, export, consensus"
    assert console(word) == (2, "", f"error: {word}: no such command; known are {known}\n")


@pytest.mark.slow
def test_every_command_runs(world, console, tmp_path):
    runs = f"run_root={tmp_path / 'runs'}"
    code, out, err = console("train", "-m", *world, "init=uniform", "tokens=4096", "seed=0,1", runs)
    assert (code, "seed=1  L0" in err, "report.html" in out) == (0, True, True)
    code, out, _ = console("plan", "--no-measure", *world, "init=uniform", "tokens=4096", "seed=1", runs)
    assert (code, "everything" in out) == (0, True)
    assert console("cache", *world)[1].rstrip().endswith("tokens of width 16")
    code, out, _ = console("stability", runs)
    assert (code, "table" in out) == (0, True)
    cache_root = next(word for word in world if word.startswith("cache_root="))
    code, out, _ = console("evaluate", runs, cache_root, "logger=none", "core.tokens=500", "threads=1")
    assert (code, "quality.json" in out) == (0, True)
    assert console("export", runs, f"out={tmp_path / 'out'}")[0] == 0
    assert len(list((tmp_path / "out").rglob("cfg.json"))) == 2


@pytest.mark.parametrize("name", MODULES)
def test_a_commands_mistake_is_one_line(name, console):
    code, out, err = console(name, "colour=red")
    assert (code, out) == (2, "")
    assert err.startswith("error: colour")
    assert err.count("\n") == 1


def test_the_package_installs_the_command():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"saemd": "saemd.__main__:main"}
