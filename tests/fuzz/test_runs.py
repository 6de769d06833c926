"""Damaged run directories: every file of a run, a comparison and a checkpoint, byte by byte and value by value."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from saemd.checksums import without_checksum
from saemd.composition import compose_all
from saemd.config import Config
from saemd.errors import UserError
from saemd.files import read_json, read_npz, read_tensors, save_tensors, write_json
from saemd.quality.records import read_records
from saemd.runs import read_metrics, read_run, read_weights
from saemd.sae.export import load_sae
from saemd.stability.pairs import stored
from saemd.stability.root import compare_all
from saemd.stability.siblings import siblings
from saemd.training import record
from saemd.training.checkpoints import load_whole, step_of
from tests.fuzz.mutations import as_json, damaged_bytes, damaged_value, few, refused, same_or_refused
from tests.fuzz.places import emptied
from tests.runs.conftest import whole
from tests.runs.short_run import PLACE, SHORT
from tests.stability_fakes import fake_run

__all__ = ["whole"]  # a fixture
READ = ("config", "cache_fingerprint", "sibling_fingerprint", "fingerprint", "start", "cache")  # of config.yaml
FILES = ("config.yaml", "metrics.json", "latents.npz", "cfg.json", "sae_weights.safetensors")


def content(path: Path) -> list[Any]:
    """All that a run's files say, as plain values."""
    run = read_run(path)
    saved = {key: run.saved.get(key) for key in READ}
    run = dataclasses.replace(run, saved=saved)
    values = [value.tolist() if isinstance(value, np.ndarray) else value for value in vars(run).values()]
    weights = read_weights(run)
    sae = load_sae(path)
    return [values[1:], weights.W_enc.tolist(), weights.W_dec.tolist(), sae.state_dict()["threshold"].tolist()]


def place(tmp_path_factory: Any, name: str) -> Path:
    return emptied(tmp_path_factory, name) / PLACE


@few(60)
@given(data=st.data())
def test_bytes_of_a_run(data, whole, tmp_path_factory):
    """`metadata` of cfg.json is for other programs; saemd reads none of it."""
    run = place(tmp_path_factory, "run")
    shutil.copytree(whole, run)
    file = run / data.draw(st.sampled_from(FILES))
    file.write_bytes(data.draw(damaged_bytes(file.read_bytes())))
    expected = content(whole)
    expected[0][0] = run.parents[2]
    same_or_refused(lambda: content(run), expected)


@pytest.fixture(scope="module")
def of_values(world, tmp_path_factory) -> Config:
    """The configuration of the run in `place(tmp_path_factory, "values")`."""
    run_root = place(tmp_path_factory, "values").parents[2]
    return compose_all([*world, *SHORT, f"run_root={run_root}"])[0]


@few(20)
@given(data=st.data())
def test_values_of_a_run_that_has_no_checksums(data, whole, of_values, tmp_path_factory):
    """As of an earlier version, or of another program: it is read, or refused in one line."""
    run = place(tmp_path_factory, "values")
    shutil.copytree(whole, run)
    name = data.draw(st.sampled_from(("config.yaml", "metrics.json", "cfg.json")))
    saved = yaml.safe_load((run / name).read_text())
    saved.pop("checksum", None)
    damaged = data.draw(damaged_value(saved))
    (run / name).write_bytes(as_json(damaged) if name != "config.yaml" else yaml.safe_dump(damaged).encode())
    other = shutil.copytree(whole, run.parent / "seed=1")
    refused(lambda: content(run))
    refused(lambda: record.finished(of_values))
    refused(lambda: compare_all(run.parents[2], 0.7))
    assert other.is_dir()


@few(60)
@given(data=st.data())
def test_bytes_of_a_checkpoint(data, whole, tmp_path_factory):
    run = place(tmp_path_factory, "checkpoint")
    run.mkdir(parents=True)
    path = run / "last.ckpt"
    path.write_bytes(data.draw(damaged_bytes((whole / "last.ckpt").read_bytes())))
    refused(lambda: step_of(run))
    same_or_refused(lambda: load_whole(path), load_whole(whole / "last.ckpt"), same_tensors)


def same_tensors(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_tensors(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_tensors, a, b))
    return type(a) is type(b) and (a == b or a != a)


ARRAYS = {"x": np.arange(300, dtype=np.float32), "y": np.array("some text")}


@few(80)
@given(data=st.data(), compressed=st.booleans())
def test_bytes_of_arrays(data, compressed, tmp_path_factory):
    path = emptied(tmp_path_factory, "arrays") / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, **ARRAYS)  # pyright: ignore[reportArgumentType]
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    expected = [value.tolist() for value in ARRAYS.values()]
    same_or_refused(lambda: [array.tolist() for array in read_npz(path, ("x", "y"), "mend it")], expected)


@few(80)
@given(data=st.data())
def test_bytes_of_tensors(data, tmp_path_factory):
    path = emptied(tmp_path_factory, "tensors") / "x.safetensors"
    tensors = {"x": torch.arange(100.0).view(10, 10), "mask": torch.arange(9) > 3, "half": torch.ones(5).bfloat16()}
    save_tensors(tensors, path)
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    same_or_refused(lambda: read_tensors(path), tensors, same_tensors)


@few(80)
@given(data=st.data())
def test_bytes_of_a_record(data, tmp_path_factory):
    path = emptied(tmp_path_factory, "record") / "x.json"
    value = {"init": "mirror", "l0": 40, "value": 0.125, "seeds": [1, 2], "none": None, "text": "é"}
    write_json(path, value)
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))

    def read() -> Any:
        content = read_json(path, "mend it")
        if not isinstance(content, dict) or not value.keys() <= content.keys():  # as all who read records do
            raise UserError("no record")
        return {key: content[key] for key in value}

    same_or_refused(read, value)


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """Two siblings and their comparison."""
    root = tmp_path_factory.mktemp("compared")
    for seed in (24, 42):
        fake_run(root, seed=seed, config={"activations": {"context_length": 256}})
    compare_all(root, 0.7)
    return root


@few(20)
@given(data=st.data())
def test_a_damaged_comparison_is_made_again(data, compared, tmp_path_factory):
    """Whatever is wrong with the files of a comparison, the table is the one of undamaged files."""
    root = emptied(tmp_path_factory, "comparison")
    shutil.copytree(compared, root, dirs_exist_ok=True)
    below = root / "stability"
    files = sorted(path for path in below.rglob("*") if path.suffix in (".npz", ".json"))
    file = data.draw(st.sampled_from(files))
    file.write_bytes(data.draw(damaged_bytes(file.read_bytes())))
    assert refused(lambda: compare_all(root, 0.7)) is None
    assert (below / "stability.json").read_text() == (compared / "stability" / "stability.json").read_text()
    (pair,), _ = siblings([read_run(root / "init=uniform" / "l0=40" / f"seed={seed}") for seed in (24, 42)])
    assert stored(below, pair) is not None


@few(50)
@given(data=st.data())
def test_a_table_of_scores(data, tmp_path_factory):
    path = emptied(tmp_path_factory, "scores") / "quality.json"
    row = {"init": "a", "score": "core", "title": "t", "status": "done", "achieved_l0": 1.0, "value": 0.5, "std": None}
    rows = [row | {"values": {}, "data": {}, "l0": 40, "seed": 1, "reason": None}]
    changed = data.draw(st.booleans())
    path.write_bytes(as_json(data.draw(damaged_value(rows))) if changed else data.draw(damaged_bytes(as_json(rows))))
    assert isinstance(read_records(path), list)


@few(50)
@given(data=st.data())
def test_figures_without_a_checksum_are_numbers_or_refused(data, whole, tmp_path_factory):
    folder = emptied(tmp_path_factory, "metrics")
    saved = without_checksum(json.loads((whole / "metrics.json").read_text()))
    (folder / "metrics.json").write_bytes(as_json(data.draw(damaged_value(saved))))
    read: list[dict[str, Any]] = []
    if refused(lambda: read.append(read_metrics(folder))) is None:
        assert all(f"{read[0][key]:.2f}" for key in ("l0", "fvu"))
