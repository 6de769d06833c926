"""Run directories that are damaged, each in every entry that reads runs: one line, and the other runs are used."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from saemd import export, load_sae, seeds
from saemd.checksums import without_checksum
from saemd.errors import UserError
from saemd.sae import save_sae
from saemd.stability import compare_root, compare_run
from saemd.stability.__main__ import main as stability
from tests.runs.short_run import PLACE, SHORT, interrupted, one_error
from tests.sae.test_jumprelu import random_sae
from tests.stability_fakes import D, F, fake_run

CONFIG = {"activations": {"context_length": 256}}
Damage = Callable[[Path], object]


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(content: str | bytes) -> Damage:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def changed(**values: object) -> Damage:
    """Other values for these keys of a YAML or JSON file."""
    return lambda path: path.write_text(
        yaml.safe_dump({**without_checksum(yaml.safe_load(path.read_text())), **values})
    )


def without(key: str) -> Damage:
    def remove(path: Path) -> None:
        there = without_checksum(yaml.safe_load(path.read_text()))
        del there[key]
        path.write_text(json.dumps(there))

    return remove


def other_weights(path: Path) -> None:
    save_file({name: value[..., :-1].contiguous() for name, value in load_file(path).items()}, path)


def other_latents(**arrays: np.ndarray) -> Damage:
    def replace(path: Path) -> None:
        with np.load(path) as there:
            kept = {name: there[name] for name in there.files}
        np.savez(path, **{**kept, **arrays})  # pyright: ignore[reportArgumentType]

    return replace


ANYWHERE = {"empty": text(""), "folder": folder, "half": half}
TEXT = {"bytes": text(b"\xff\xfe\x00"), "null": text("null"), "list": text("[]"), "text": text("text")}
DAMAGE: dict[str, dict[str, Damage]] = {
    "config.yaml": {
        **ANYWHERE, **TEXT, "missing": Path.unlink, "no config": without("config"), "config": changed(config=[1]),
        "start": changed(start="none"), "init": changed(config={"init": "mirror"}),
        "fingerprint": changed(sibling_fingerprint=["x"]),
    },
    "metrics.json": {
        **ANYWHERE, **TEXT, "no l0": without("l0"), "l0": changed(l0="x"), "fvu": changed(fvu=None),
        "seconds": changed(seconds=[1]), "dead": changed(dead_fraction="many"), "true": changed(fvu=True),
    },
    "sae_weights.safetensors": {**ANYWHERE, "missing": Path.unlink, "text": text("text"), "width": other_weights},
    "cfg.json": {**ANYWHERE, **TEXT, "d_sae": changed(d_sae=F - 1), "no d_in": without("d_in")},
    "latents.npz": {
        **ANYWHERE, "missing": Path.unlink, "text": text("text"),
        "objects": other_latents(alive=np.array([{}] * F, dtype=object)),
        "length": other_latents(alive=np.ones(F - 1, dtype=bool)),
        "kind": other_latents(cos_dec_start=np.array(["x"] * F)),
    },
}  # fmt: skip
CASES = [(name, case) for name, cases in DAMAGE.items() for case in cases]


@pytest.fixture(scope="module")
def siblings(tmp_path_factory) -> Path:
    """A run root of three siblings, to be copied."""
    root = tmp_path_factory.mktemp("siblings")
    for seed in (7, 24, 42):
        save_sae(random_sae(D, F), fake_run(root, seed=seed, config=CONFIG))
    return root


def damaged(siblings: Path, run_root: Path, name: str, case: str) -> Path:
    """Three siblings below `run_root`, of which the one that is returned is damaged."""
    shutil.copytree(siblings, run_root, dirs_exist_ok=True)
    run = run_root / "init=uniform" / "l0=40" / "seed=7"
    DAMAGE[name][case](run / name)
    return run


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr("saemd.stability.__main__.write_report", lambda outcome, **_: None)


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.usefixtures("undrawn")
def test_stability_names_it_and_compares_the_others(name, case, siblings, tmp_path, capsys):
    run = damaged(siblings, tmp_path, name, case)
    assert stability([f"run_root={tmp_path}"]) == 2
    out = capsys.readouterr().out
    left_out = [line for line in out.splitlines() if "left out" in line]
    assert len(left_out) == 1
    pattern = rf"left out: run_dir={run}: cannot be read \({name} .*\); remove this folder and train it again"
    assert re.fullmatch(pattern, left_out[0]), left_out[0]
    (record,) = json.loads((tmp_path / "stability" / "stability.json").read_text())
    assert record["seeds"] == [24, 42]
    assert len(compare_run(run.parent / "seed=24")) == 1  # as a job that has just finished does
    assert capsys.readouterr().out == f"{left_out[0].removeprefix('left out: ')}\n"


@pytest.mark.parametrize(
    ("name", "case"), [c for c in CASES if c[0] != "latents.npz" and c != ("metrics.json", "folder")]
)
def test_export_names_it_and_writes_nothing(name, case, siblings, tmp_path, capsys):
    run = damaged(siblings, tmp_path / "runs", name, case)
    arguments = [f"run={run}", f"out={tmp_path / 'out'}", "format=dictionary_learning"]
    assert export.main(arguments) == 2
    pattern = rf"run={run}: cannot be read \({name} .*\); remove it and train it again"
    assert re.fullmatch(f"error: {pattern}", one_error(capsys))
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    ("name", "case"), [case for case in CASES if case[0] in ("sae_weights.safetensors", "cfg.json")]
)
def test_load_sae_names_the_file(name, case, siblings, tmp_path):
    run = damaged(siblings, tmp_path, name, case)
    with pytest.raises(UserError, match=f"/{name}: ") as raised:
        load_sae(run)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "case"), [case for case in CASES if case[0] != "latents.npz"])
def test_train_does_not_take_it_for_finished(name, case, world, command, whole, tmp_path, capsys):
    run = tmp_path / PLACE
    shutil.copytree(whole, run)
    if case == "d_sae":
        DAMAGE[name][case] = changed(d_sae=47)
    DAMAGE[name][case](run / name)
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert command(*world, *SHORT, f"run_root={tmp_path}") == 2
    assert re.match(rf"error: {run}/{name}: .*remove ", one_error(capsys))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_without_its_configuration_is_not_gone_on_with(world, command, whole, tmp_path, capsys):
    run = interrupted(whole, tmp_path)
    (run / "config.yaml").unlink()
    assert command(*world, *SHORT, f"run_root={tmp_path}") == 2
    assert re.match(rf"error: {run}/config.yaml: cannot be read .*remove {run} and train it again", one_error(capsys))


def test_a_run_that_another_process_finishes_meanwhile_is_left_as_it_is(
    world, command, whole, tmp_path, capsys, monkeypatch
):
    prepare = seeds.run.prepare

    def slow(config):
        job = prepare(config)
        shutil.copytree(whole, tmp_path / PLACE)
        return job

    monkeypatch.setattr(seeds.run, "prepare", slow)
    assert command(*world, *SHORT, f"run_root={tmp_path}") == 2
    assert "another process has just finished this run" in one_error(capsys)
    assert (tmp_path / PLACE / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    assert command(*world, *SHORT, f"run_root={tmp_path}") == 0


def test_a_file_where_the_run_belongs(world, command, tmp_path, capsys):
    (tmp_path / "init=uniform").touch()
    assert command(*world, *SHORT, f"run_root={tmp_path}") == 2
    assert re.match(rf"error: {tmp_path}/init=uniform: a file, where .* needs a folder; remove it", one_error(capsys))


@pytest.fixture
def diverged(tmp_path) -> Path:
    """One of three siblings whose weights are NaN in one latent."""
    for seed in (7, 24, 42):
        fake_run(tmp_path, seed=seed, config=CONFIG)
    path = tmp_path / "init=uniform" / "l0=40" / "seed=24" / "sae_weights.safetensors"
    weights = load_file(path)
    weights["W_dec"][3] = torch.inf
    save_file(weights, path)
    return path.parent


@pytest.mark.usefixtures("undrawn")
def test_stability_names_the_run_that_is_not_finite(diverged, tmp_path, capsys):
    assert [record["seeds"] for record in compare_root(tmp_path)] == [[7, 42]]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"run_dir={diverged}: W_dec: 1 of 48 latents are NaN or infinite; remove this folder and train it again, with "
        "a lower recipe.lr"
    ]


def test_weights_that_are_not_finite_load_with_a_warning_and_are_not_exported(diverged, tmp_path, capsys):
    with pytest.warns(UserWarning, match=rf"{diverged}: W_dec is NaN or infinite in places"):
        assert not load_sae(diverged).W_dec.isfinite().all()
    assert export.main([f"run={diverged}", f"out={tmp_path / 'out'}"]) == 2
    assert f"error: {diverged}: W_dec is NaN or infinite in places; remove this folder" in one_error(capsys)
    assert not (tmp_path / "out").exists()
