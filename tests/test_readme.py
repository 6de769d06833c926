"""What the README and the entries' docstrings tell people to type exists."""

import re
from pathlib import Path

import pytest

from saemd import cache, evaluate, train
from saemd.cli import CONF, compose_all, register
from saemd.quality.config import compose_evaluation

ROOT = Path(__file__).parent.parent
TEXTS = [(ROOT / "README.md").read_text(), train.__doc__ or "", cache.__doc__ or "", evaluate.__doc__ or ""]
COMMANDS = sorted(
    {line.split("#")[0].strip() for text in TEXTS for line in text.splitlines() if "python -m saemd." in line}
)
COMPOSERS = {"train": compose_all, "cache": compose_all, "evaluate": compose_evaluation}
COMMANDS = [command for command in COMMANDS if command.split()[2].removeprefix("saemd.") in COMPOSERS]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command):
    register()
    compose = COMPOSERS[command.split()[2].removeprefix("saemd.")]
    assert compose(command.split()[3:])


def test_make_targets_and_files_exist():
    readme, makefile = TEXTS[0], (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", readme):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\]\(([\w./-]+)\)", readme):
        assert (ROOT / path).exists(), path


def test_named_group_values_exist():
    table = TEXTS[0].split("## Configuration")[1].split("## Layout")[0]
    for group in ("lm", "corpus", "recipe", "logger", "experiment"):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{group}`"))
        for path in (CONF / group).glob("*.yaml"):
            assert f"`{path.stem}" in row, (group, path.stem)


def test_presets_of_the_evaluation_compose():
    register()
    presets = sorted(path.stem for path in (CONF / "quality").glob("*.yaml"))
    found = {preset: compose_evaluation([f"quality={preset}"]).run_root for preset in presets}
    assert found == {"packaged": "runs", "paper": "runs/paper"}
