"""The comparison's own files: damaged ones are made again, with a line. A place that cannot be written is named."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from saemd.errors import UserError
from saemd.stability import compare_root
from saemd.stability.__main__ import main
from saemd.stability.root import compare_again
from tests.stability_fakes import F, fake_run

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture
def compared(tmp_path, capsys) -> Path:
    """A run root whose two runs have been compared."""
    for seed in (24, 42):
        fake_run(tmp_path, seed=seed)
    assert main([f"run_root={tmp_path}", "shared_threshold=0.2"]) == 0
    capsys.readouterr()
    return tmp_path


def without_permutation(path: Path) -> None:
    with np.load(path) as there:
        kept = {name: there[name] for name in there.files}
    np.savez(path, **{**kept, "match_enc": np.zeros(F, dtype=np.int32)})


def with_objects(path: Path) -> None:
    np.savez(path, inputs=np.array([{}], dtype=object))


PAIR, FLOOR = "pairs/init=uniform_l0=40_seeds=24-42.npz", "floors/n=48_d=16.json"
DAMAGE = {
    "empty pair": (PAIR, lambda path: path.write_bytes(b"")),
    "truncated pair": (PAIR, lambda path: path.write_bytes(path.read_bytes()[:-300])),
    "pair of text": (PAIR, lambda path: path.write_text("text")),
    "pair of objects": (PAIR, with_objects),
    "pair of no permutation": (PAIR, without_permutation),
    "empty floor": (FLOOR, lambda path: path.write_text("")),
    "floor null": (FLOOR, lambda path: path.write_text("null")),
    "floor of another kind": (FLOOR, lambda path: path.write_text('{"mean_cosine": "x"}')),
    "floor of bytes": (FLOOR, lambda path: path.write_bytes(b"\xff")),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_made_again(case, compared, capsys):
    name, damage = DAMAGE[case]
    path = compared / "stability" / name
    before = json.loads((compared / "stability" / "stability.json").read_text())
    damage(path)
    assert main([f"run_root={compared}", "shared_threshold=0.2"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(path))]
    assert len(said) == 1
    assert said[0].endswith("again")
    assert json.loads((compared / "stability" / "stability.json").read_text()) == before
    assert main([f"run_root={compared}", "shared_threshold=0.2"]) == 0
    assert str(path) not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", ["", "null", "{}", "[1]", '[{"shared_threshold": "x"}]', '[{"shared_threshold": 7}]']
)
def test_a_damaged_table_is_made_again(content, compared, capsys):
    path = compared / "stability" / "stability.json"
    path.write_text(content)
    compare_again(compared)
    assert re.fullmatch(rf"{path}: .*; it is made again, with shared_threshold=0.7\n", capsys.readouterr().out)
    assert json.loads(path.read_text())[0]["shared_threshold"] == 0.7


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"init": "uniform"}]'])
def test_damaged_scores_are_left_out_of_the_report(content, compared, capsys):
    path = compared / "quality" / "quality.json"
    path.parent.mkdir()
    path.write_text(content)
    assert main([f"run_root={compared}", "shared_threshold=0.2"]) == 0
    said = capsys.readouterr().err
    assert re.fullmatch(rf"{path}: .*; python -m saemd.evaluate writes it again\n", said)


def test_a_run_root_that_is_a_file_or_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    assert main([f"run_root={tmp_path / 'file'}"]) == 2
    assert re.match(r"error: run_root=.*/file: a file, not a folder; give the run_root", capsys.readouterr().err)
    fake_run(tmp_path)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("saemd.stability.root.match_pairs", lambda *_: pytest.fail("matched before it was refused"))
    for owner, name in ((Path, "mkdir"), (tempfile, "TemporaryFile")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            with pytest.raises(UserError, match=r"stability: cannot be written \(Read-only file system\)"):
                compare_root(tmp_path)


@pytest.mark.parametrize("threshold", ["nan", "0.7,0.8", "inf", "-0.5", "1"])
def test_no_threshold(threshold, tmp_path, capsys):
    assert main([f"run_root={tmp_path}", f"shared_threshold={threshold}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: shared_threshold={threshold}")


def test_the_home_folder_is_known_by_its_sign(compared, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(compared.parent))
    shutil.rmtree(compared / "stability")
    assert main([f"run_root=~/{compared.name}"]) == 0
    assert (compared / "stability" / "stability.json").exists()
