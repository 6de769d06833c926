"""Which runs are compared: seeds of one configuration, wherever they lie; or runs that differ in one other key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saemd.errors import UserError
from saemd.logging.folders import curves
from saemd.report.table import print_table
from saemd.stability import compare_root, compare_run
from saemd.stability.__main__ import main
from saemd.stability.records import label, record_name
from tests.stability_fakes import fake_run, rows

pytestmark = pytest.mark.usefixtures("blank_figures")


def layers(run_root: Path, seeds=(24, 42)) -> None:
    """Two layers, as `-m layer=6,12` leaves them."""
    for layer in (6, 12):
        for seed in seeds:
            config = {"layer": layer, "activations": {"tokens": 1}}
            fake_run(run_root, seed=seed, kind=f"layer{layer}", config=config, parts={"layer": str(layer)})


def pairs(records: list[dict]) -> list[tuple]:
    return [(label(record), record["l0"], record["seeds"]) for record in records]


def test_each_cell_of_a_sweep_has_its_own_pair_and_files(tmp_path, capsys):
    layers(tmp_path)
    assert main([f"run_root={tmp_path}"]) == 0
    records = json.loads((tmp_path / "stability" / "stability.json").read_text())
    assert pairs(records) == [("uniform layer=12", 40, [24, 42]), ("uniform layer=6", 40, [24, 42])]
    assert [record["folder"] for record in records] == [{"layer": "12"}, {"layer": "6"}]
    names = [f"init=uniform_l0=40_layer={layer}_seeds=24-42" for layer in (12, 6)]
    assert sorted(path.stem for path in (tmp_path / "stability" / "pairs").iterdir()) == names
    figures = {path.stem for path in (tmp_path / "stability" / "figures").iterdir()}
    assert {f"figure2_{name}" for name in names} <= figures
    out = capsys.readouterr().out
    assert "uniform layer=6 " in out
    assert "left out" not in out
    (row,) = curves(records)
    assert {"stability/shared/uniform layer=6", "stability/shared/uniform layer=12"} <= row.keys()
    page = (tmp_path / "stability" / "report.html").read_text()
    assert page.count("<td>uniform layer=6</td>") == 6  # four tables of pairs, and both runs


def test_a_record_without_further_parts_says_nothing_of_them(tmp_path):
    for seed in (24, 42):
        fake_run(tmp_path, seed=seed)
    (record,) = compare_root(tmp_path)
    assert list(record)[:5] == ["init", "l0", "seeds", "d_sae", "d_in"]


def test_a_run_that_has_just_finished_is_compared_in_its_own_folder(tmp_path):
    layers(tmp_path)
    (record,) = compare_run(tmp_path / "init=uniform" / "l0=40" / "layer=6" / "seed=42")
    assert record["folder"] == {"layer": "6"}


def test_siblings_are_found_in_other_folders_but_no_run_is_compared_twice(tmp_path):
    for parts, seeds in ((None, (1, 2)), ({"layer": "12"}, (1, 3))):
        for seed in seeds:
            fake_run(tmp_path, seed=seed, parts=parts)
    records = compare_root(tmp_path)
    assert pairs(records) == [
        ("uniform", 40, [1, 2]),
        ("uniform layer=12", 40, [1, 3]),
        ("uniform layer=12", 40, [2, 3]),
    ]
    assert len({record_name(record) for record in records}) == 3


def test_halves_of_a_seed_are_seeds(tmp_path, capsys):
    for half in (1, 2):
        fake_run(tmp_path, seed=24, config={"init_seed": half}, parts={"init_seed": str(half)}, start=rows(half))
    (record,) = compare_root(tmp_path)
    assert (record["seeds"], record["folder"]) == ([24, 24], {"init_seed": ["1", "2"]})
    assert record_name(record) == "init=uniform_l0=40_init_seed=1,2_seeds=24-24"
    assert label(record) == "uniform"
    capsys.readouterr()
    print_table([record])
    assert "24-24 init_seed=1,2" in capsys.readouterr().out


def test_the_files_of_pairs_with_long_names_are_short_and_differ():
    record = {"init": "é" * 40, "l0": 40, "seeds": [1, 2], "folder": {"lm.name": ["a" * 80, "b" * 80]}}
    name, other = record_name(record), record_name({**record, "seeds": [1, 3]})
    assert name != other
    assert len(name.encode()) <= 180


def test_across_a_key_runs_of_one_seed_are_compared_in_files_of_their_own(tmp_path, capsys):
    for init in ("mirror", "uniform"):
        for seed in (24, 42):
            fake_run(tmp_path, init, seed=seed, l0=20)
            fake_run(tmp_path, init, seed=seed)
    compare_root(tmp_path)
    before = (tmp_path / "stability" / "stability.json").read_bytes()
    assert main([f"run_root={tmp_path}", "across=init"]) == 0
    assert (tmp_path / "stability" / "stability.json").read_bytes() == before
    records = json.loads((tmp_path / "across=init" / "stability.json").read_text())
    assert pairs(records) == [("mirror,uniform", l0, [seed, seed]) for l0 in (20, 40) for seed in (24, 42)]
    assert {str(record["across"]) for record in records} == {str({"init": ["mirror", "uniform"]})}
    assert "Similarity across init" in capsys.readouterr().out
    page = (tmp_path / "across=init" / "report.html").read_text()
    assert "differ in nothing but init" in page
    (record, *_) = compare_root(tmp_path, across="l0")
    assert (record["across"], label(record)) == ({"l0": [20, 40]}, "mirror l0=20,40")
    assert record_name(record) == "init=mirror_l0=20,40_seeds=24-24"
    assert len(compare_root(tmp_path)) == 4  # these folders hold no runs


def test_across_a_leaf_only_that_key_may_differ(tmp_path):
    for lr in (0.1, 0.2):
        for tokens in (1, 2):
            config = {"recipe": {"lr": lr}, "tokens": tokens, "init": {"name": "uniform", "label": f"{lr}{tokens}"}}
            fake_run(tmp_path, config=config, parts={"recipe.lr": str(lr), "tokens": str(tokens)})
    records = compare_root(tmp_path, across="recipe.lr")
    assert [record["folder"]["tokens"] for record in records] == ["1", "2"]
    assert [record["across"] for record in records] == [{"recipe.lr": [0.1, 0.2]}] * 2
    with pytest.raises(UserError, match=r"^across=recipe: no run has .* this group's option in its folder"):
        compare_root(tmp_path, across="recipe")


def test_across_layers_the_caches_may_differ_and_shapes_may_not(tmp_path, capsys):
    layers(tmp_path, seeds=(24,))
    config = {"layer": 18, "activations": {"tokens": 1}}
    fake_run(tmp_path, config=config, parts={"layer": "18"}, start=rows(3, 96))
    assert [record["across"] for record in compare_root(tmp_path, across="layer")] == [{"layer": [12, 6]}]
    assert (
        "layer=12 and layer=18: dictionaries of shape [48, 16] and [96, 16], cannot be matched"
        in capsys.readouterr().out
    )


def test_across_nothing_is_one_line(tmp_path, capsys):
    fake_run(tmp_path)
    for key in ("colour", "seed"):
        with pytest.raises(UserError, match=f"^across={key}: "):
            compare_root(tmp_path, across=key)
    assert main([f"run_root={tmp_path}", "across=init"]) == 0
    assert "1 finished run, but no two of them differ in init alone" in capsys.readouterr().out
