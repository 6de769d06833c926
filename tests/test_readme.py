"""What the README and the entries' docstrings tell people to type exists."""

import re
from pathlib import Path

import pytest

from saemd import cache, evaluate, jobs
from saemd.arguments import CONF
from saemd.composition import compose_all
from saemd.quality.config import compose_evaluation

ROOT = Path(__file__).parent.parent
TEXTS = [(ROOT / "README.md").read_text(), jobs.__doc__ or "", cache.__doc__ or "", evaluate.__doc__ or ""]
COMPOSERS = {"train": compose_all, "cache": compose_all, "evaluate": compose_evaluation}
COMMAND = re.compile(rf"^ *(?:saemd |python -m saemd\.)({'|'.join(COMPOSERS)})\b([^#\n]*)", re.MULTILINE)
COMMANDS = sorted({(name, *words.split()) for text in TEXTS for name, words in COMMAND.findall(text)})


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_compose(command):
    name, *words = command
    assert COMPOSERS[name](words)


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
    presets = sorted(path.stem for path in (CONF / "quality").glob("*.yaml"))
    found = {preset: compose_evaluation([f"quality={preset}"]).run_root for preset in presets}
    assert found == {"packaged": "runs", "paper": "runs/paper"}
