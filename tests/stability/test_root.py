"""A run root compared: whole, in part, again, by several jobs at once, and with runs that do not fit."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from saemd.errors import UserError
from saemd.files import read_json
from saemd.stability import compare_root, compare_run
from saemd.stability import pairs as pairs_module
from saemd.stability import root as root_module
from tests.stability_fakes import F, fake_run, fake_sweep, rows


@pytest.fixture
def counted(monkeypatch):
    """The pairs that are really matched."""
    calls = []
    real = pairs_module.compare

    def counting(a, b, **keywords):
        calls.append(1)
        return real(a, b, **keywords)

    monkeypatch.setattr(pairs_module, "compare", counting)
    return calls


def stored(run_root):
    return read_json(run_root / "stability" / "stability.json", "")


def test_a_whole_fake_sweep(tmp_path):
    fake_sweep(tmp_path)
    records = compare_root(tmp_path)
    assert [(r["init"], r["l0"], r["seeds"]) for r in records] == [
        (init, l0, [24, 42]) for init in ("mirror", "uniform") for l0 in (20, 40)
    ]
    assert stored(tmp_path) == json.loads(json.dumps(records))
    folder = tmp_path / "stability"
    with np.load(folder / "pairs" / "init=mirror_l0=40_seeds=24-42.npz") as pair:
        assert {len(pair[key]) for key in ("cos_enc", "cos_dec", "match_enc", "match_dec")} == {F}
        assert pair["cos_dec"].mean() == pytest.approx(records[1]["mean_cos_dec"])
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]  # nothing half-written


def test_three_seeds_make_three_pairs_and_a_lone_seed_none(tmp_path, capsys):
    fake_sweep(tmp_path, inits=("uniform",), targets=(40,), seeds=(0, 24, 42))
    fake_run(tmp_path, "uniform", 80, 24)
    half_done = fake_run(tmp_path, "uniform", 80, 42)
    (half_done / "metrics.json").unlink()
    assert [r["seeds"] for r in compare_root(tmp_path)] == [[0, 24], [0, 42], [24, 42]]
    assert capsys.readouterr().out == ""


def test_only_what_has_changed_is_matched_again(tmp_path, counted):
    fake_sweep(tmp_path, targets=(40,))
    first = compare_root(tmp_path)
    assert len(counted) == 2
    os.utime(tmp_path / "init=mirror" / "l0=40" / "seed=24" / "sae_weights.safetensors")  # touched, the same content
    assert compare_root(tmp_path) == first
    assert len(counted) == 2
    fake_run(tmp_path, "mirror", 40, 42, start=rows(5), noise=0.9)
    again = compare_root(tmp_path)
    assert len(counted) == 3
    assert [a == b for a, b in zip(first, again, strict=True)] == [False, True]
    (tmp_path / "stability" / "pairs" / "init=uniform_l0=40_seeds=24-42.npz").write_bytes(b"not a pair")
    assert compare_root(tmp_path) == again
    assert len(counted) == 4


def test_another_threshold_is_another_table_from_the_same_matching(tmp_path, counted):
    fake_sweep(tmp_path, inits=("uniform",), targets=(40,))
    (strict,), (lax,) = compare_root(tmp_path), compare_root(tmp_path, shared_threshold=0.2)
    assert len(counted) == 1
    assert (strict["shared_threshold"], lax["shared_threshold"]) == (0.7, 0.2)
    assert lax["shared"] > strict["shared"]


def test_seeds_of_other_configurations_are_named_and_not_compared(tmp_path, capsys):
    fake_sweep(tmp_path, inits=("uniform",), targets=(40,), seeds=(1, 2))
    fake_run(tmp_path, "uniform", 40, 3, kind="longer", config={"tokens": 2_000_000})
    assert [r["seeds"] for r in compare_root(tmp_path)] == [[1, 2]]
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "init=uniform l0=40" in out
    assert "seed 1,2 and seed 3 are not compared" in out
    assert "tokens=1000000 and 2000000" in out


def test_a_run_that_has_just_finished_joins_the_table(tmp_path, counted):
    alone = fake_run(tmp_path, "uniform", 40, 24)
    assert compare_run(alone) == []
    fake_sweep(tmp_path, inits=("uniform",), targets=(20,))
    newest = fake_run(tmp_path, "uniform", 40, 42)
    records = compare_run(newest)
    assert [(r["l0"], r["seeds"]) for r in records] == [(40, [24, 42])]
    assert len(counted) == 1  # the other L0's pair is none of this run's business
    assert stored(tmp_path) == json.loads(json.dumps(records))
    assert len(compare_root(tmp_path)) == 2
    assert len(counted) == 2
    assert len(compare_run(newest)) == 1
    assert len(stored(tmp_path)) == 2
    with pytest.raises(UserError, match=r"run_dir=.*cannot be read"):
        compare_run(tmp_path / "init=uniform" / "l0=40" / "seed=7")


def test_jobs_that_finish_at_once_lose_no_pair(tmp_path, monkeypatch):
    """A job that is slow to write its table must not overwrite the pair that another job added meanwhile."""
    fake_sweep(tmp_path, inits=("uniform",))
    slow, quick = (tmp_path / "init=uniform" / f"l0={l0}" / "seed=42" for l0 in (20, 40))
    compare_run(quick)  # the random floor is there
    shutil.rmtree(tmp_path / "stability" / "pairs")
    about_to_write, written = threading.Event(), threading.Event()
    real = root_module.write_json

    def write_json(path, value):
        if not about_to_write.is_set():
            about_to_write.set()
            written.wait(1)
        real(path, value)
        written.set()

    monkeypatch.setattr(root_module, "write_json", write_json)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(compare_run, slow)
        assert about_to_write.wait(10)
        assert len(pool.submit(compare_run, quick).result()) == len(first.result()) == 1
    assert [record["l0"] for record in stored(tmp_path)] == [20, 40]


def test_half_a_shared_start_is_a_shared_start(tmp_path):
    """A start whose decoders are equal and encoders are not is told apart in the record."""
    for seed in (24, 42):
        run = fake_run(tmp_path, "mirror", 40, seed, start=rows(5))
        text = (run / "config.yaml").read_text().replace("W_enc: ", f"W_enc: {seed}")
        (run / "config.yaml").write_text(text)
    (record,) = compare_root(tmp_path)
    assert (record["same_start_dec"], record["same_start_enc"]) == (True, False)
    assert record["apart_enc"] is None
    assert 0 < record["apart_dec"] < 1
