"""`python -m saemd.stability`: what it prints, draws and refuses."""

from __future__ import annotations

import json
import shutil

import pytest

from saemd.stability.__main__ import main
from tests.stability_fakes import fake_run, fake_sweep, rows

pytestmark = pytest.mark.usefixtures("blank_figures")


def stored(run_root):
    return json.loads((run_root / "stability" / "stability.json").read_text())


def test_only_figures_whose_content_has_changed_are_drawn_again(tmp_path):
    fake_sweep(tmp_path, targets=(40,))
    figures = tmp_path / "stability" / "figures"
    assert main([f"run_root={tmp_path}"]) == 0
    before = {path: path.stat().st_mtime_ns for path in figures.iterdir()}
    names = {f"figure2_init={init}_l0=40_seeds=24-42.png" for init in ("mirror", "uniform")}
    assert {path.name for path in before} == {
        "summary.png", "summary_narrow.png", "figure2_grid.png", "rates.png", "ablation.png", *names
    }  # fmt: skip
    fake_run(tmp_path, "mirror", 40, 42, start=rows(5), noise=0.9)
    assert main([f"run_root={tmp_path}"]) == 0
    kept = {path.name for path, time in before.items() if path.stat().st_mtime_ns == time}
    assert kept == {"figure2_init=uniform_l0=40_seeds=24-42.png"}


def test_a_damaged_figure_is_drawn_again(tmp_path):
    fake_sweep(tmp_path, inits=("uniform",), targets=(40,))
    assert main([f"run_root={tmp_path}"]) == 0
    path = tmp_path / "stability" / "figures" / "summary.png"
    path.write_bytes(b"")
    assert main([f"run_root={tmp_path}"]) == 0
    assert path.stat().st_size > 100


def test_a_broken_run_is_named_and_takes_no_other_with_it(tmp_path, capsys):
    fake_sweep(tmp_path)
    (tmp_path / "init=mirror" / "l0=20" / "seed=42" / "latents.npz").unlink()
    weights = tmp_path / "init=mirror" / "l0=40" / "seed=42" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    poisoned = rows(3)
    poisoned[0, 0] = float("nan")
    fake_run(tmp_path, "uniform", 20, 42, start=poisoned)
    assert main([f"run_root={tmp_path}"]) == 2
    out = capsys.readouterr().out
    assert [(r["init"], r["l0"]) for r in stored(tmp_path)] == [("uniform", 40)]
    assert out.count("left out: ") == 3
    assert "seed=42: cannot be read" in out
    assert "1 of 48 latents are NaN" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run_root=nowhere"], "error: run_root=nowhere: no such folder"),
        (["runroot=runs"], "error: runroot=runs: known are run_root=…, shared_threshold=…, across=…, figures=…"),
        (["figures=none"], "error: figures=none: use some (the report's choice of pairs), or all"),
        (["shared_threshold=high"], "error: shared_threshold=high: use a cosine between 0 and 1"),
        (["shared_threshold=7"], "error: shared_threshold=7.0: use a cosine between 0 and 1"),
    ],
)
def test_bad_arguments_get_one_line_and_exit_code_2(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_found(tmp_path, capsys):
    assert main([f"run_root={tmp_path}"]) == 0
    assert "0 finished runs, but no two of them are siblings" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    fake_run(tmp_path, "mirror", 40, 24, start=rows(5))
    assert main([f"run_root={tmp_path}"]) == 0
    assert "1 finished run, but no two" in capsys.readouterr().out
    assert stored(tmp_path) == []
    shutil.rmtree(tmp_path / "stability")
    fake_run(tmp_path, "mirror", 40, 42, start=rows(5))
    fake_sweep(tmp_path, inits=("a-longer-label-of-an-initialisation",))
    assert main([f"run_root={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 110  # in a file
    assert "24-42 *" in out
    assert "says nothing about convergence" in out
    assert "report.html" in out


def test_many_pairs_are_one_row_a_cell_and_few_figures(tmp_path, capsys):
    fake_sweep(tmp_path, targets=(20, 40, 80), seeds=(1, 2, 3), snapshots=(0, 500_000))
    figures = tmp_path / "stability" / "figures"
    assert main([f"run_root={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert sum(" 3 (3)" in line for line in out.splitlines()) == 6
    assert len(list(figures.glob("figure2_init=*"))) == 6  # of 18 pairs, the first of each cell
    assert {"tokens.png", "tokens_narrow.png", "recurrence.png"} <= {path.name for path in figures.iterdir()}
    assert main([f"run_root={tmp_path}", "figures=all"]) == 0
    assert len(list(figures.glob("figure2_init=*"))) == 18
