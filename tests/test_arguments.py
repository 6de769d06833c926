"""`key=value` arguments: each entry refuses the same mistakes in one line."""

import pytest

from saemd import export
from saemd.logging import dashboard
from saemd.stability.__main__ import main as stability

ENTRIES = {"export": (export.main, "out"), "stability": (stability, "run_root"), "dashboard": (dashboard.main, "name")}
WRONG = {
    "given twice": (["{key}=a", "{key}=b"], "error: {key}=b: given twice, first as {key}=a; give it once"),
    "a flag": (["--{key}=a"], "error: --{key}=a: write {key}=a"),
    "a flag without a value": (["--{key}", "a"], "error: --{key}: write {key}=…"),
    "an unknown flag": (["--fast"], "error: --fast: known are "),
    "no value": (["{key}="], "error: {key}=: is empty"),
    "no key": (["runs"], "error: runs: known are "),
    "no equals sign": (["{key}"], "error: {key}: known are "),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_mistake_is_one_line(entry, case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main, key = ENTRIES[entry]
    arguments, line = WRONG[case]
    assert main([argument.format(key=key) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(line.format(key=key))
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
