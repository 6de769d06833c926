"""A run's own files: their order, their modes, a full disk, a kill between two of them, a checkpoint from elsewhere."""

from __future__ import annotations

import json
import os
import pickle
import re
import stat
import zipfile
from pathlib import Path

import pytest
import torch

from saemd.runs import held
from saemd.training.checkpoints import load_plain
from saemd.training.module import SAETraining
from tests.pipeline import same
from tests.runs.short_run import PLACE, SHORT, interrupted, one_error
from tests.test_files import no_file_above

WRITTEN = ["last.ckpt", "sae_weights.safetensors", "cfg.json", "latents.npz", "metrics.json"]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def test_others_may_read_every_file(whole):
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in whole.iterdir() if path.name != ".lock"} == {
        **dict.fromkeys(WRITTEN, 0o644), "config.yaml": 0o644
    }  # fmt: skip


@pytest.mark.parametrize("last", WRITTEN)
def test_a_kill_between_any_two_files_leaves_a_run_that_goes_on(last, world, command, whole, tmp_path, monkeypatch):
    """Killed as `last` would take its place. The next call ends with the weights of a run that was never stopped."""
    arguments, run = [*world, *SHORT, f"run_root={tmp_path}"], tmp_path / PLACE
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == last:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        assert command(*arguments) == 130
    there = [name for name in WRITTEN if (run / name).exists()]
    assert there == WRITTEN[: WRITTEN.index(last)]
    assert leftovers(run) == []
    assert command(*arguments) == 0
    assert same(run, whole)
    for name in ("l0", "fvu", "steps"):
        assert (
            json.loads((run / "metrics.json").read_text())[name]
            == json.loads((whole / "metrics.json").read_text())[name]
        )


def test_a_full_disk_is_one_line_and_the_run_goes_on(world, command, whole, tmp_path, capsys):
    arguments, run = [*world, *SHORT, f"run_root={tmp_path}"], tmp_path / PLACE
    with no_file_above(10_000):  # enough for all but the checkpoint
        assert command(*arguments) == 2
    assert re.match(rf"error: {run}/last.ckpt: the disk is full .*make room, and the same command", one_error(capsys))
    assert sorted(path.name for path in run.iterdir()) == [".lock", "config.yaml"]
    assert command(*arguments) == 0
    assert same(run, whole)


def test_a_full_disk_takes_one_run_of_a_sweep(world, command, tmp_path, capsys, monkeypatch):
    """Runs may have run_roots of their own: the others go on."""
    real = torch.save

    def save(value, file):
        if "seed=1" in str(file.name):
            raise OSError(28, os.strerror(28))
        real(value, file)

    monkeypatch.setattr(torch, "save", save)
    sweep = ["-m", *world, "init=uniform", "seed=0,1,2", "tokens=1024", f"run_root={tmp_path}"]
    assert command(*sweep) == 1
    assert capsys.readouterr().err.count("the disk is full") == 1
    assert len(list(tmp_path.glob("init=*/l0=*/seed=*/metrics.json"))) == 2
    assert not (tmp_path / PLACE.parent / "seed=1" / "metrics.json").exists()


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    for name in (".last.ckpt.partial", ".partial-0123abcd-last.ckpt", ".tmpAbCd12", ".partial-config.yaml"):
        (tmp_path / name).touch()
    with held(tmp_path):
        assert leftovers(tmp_path) == []


class Malicious:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self):
        return Path.touch, (self.touched,)


def poisoned(path: Path, form: str) -> Path:
    """The checkpoint with an object that touches a file when it is read; returns that file."""
    touched = path.with_name("touched")
    checkpoint = {**load_plain(path), "callbacks": Malicious(touched)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(checkpoint))
    else:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=form == "zip")
    return touched


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_code_in_a_checkpoint_is_not_run(form, world, command, whole, tmp_path, capsys):
    run = interrupted(whole, tmp_path)
    touched = poisoned(run / "last.ckpt", form)
    assert command(*world, *SHORT, f"run_root={tmp_path}") == 2
    assert re.match(rf"error: {run}/last.ckpt: .*; remove it, and this run starts again", one_error(capsys))
    assert not touched.exists()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def other_width(path: Path) -> None:
    checkpoint = load_plain(path)
    states = checkpoint["state_dict"]
    torch.save({**checkpoint, "state_dict": {**states, "sae.W_dec": states["sae.W_dec"][:-1].clone()}}, path)


def beyond_the_end(path: Path) -> None:
    torch.save({**load_plain(path), "global_step": 10**6}, path)


def no_zip_member(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", "y")


DAMAGE = {
    "truncated": (shorten, "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "another file": (lambda path: path.write_text("text"), "holds more than|is damaged"),
    "another zip": (no_zip_member, "is damaged"),
    "another object": (lambda path: torch.save([1], path), "is no checkpoint of a run"),
    "half a checkpoint": (lambda path: torch.save({"global_step": 3}, path), "is no checkpoint of a run"),
    "another width": (other_width, r"does not fit this run \(sae.W_dec of shape \(47, 16\), the run's is \(48, 16\)\)"),
    "a step beyond the end": (beyond_the_end, "stands at step 1000000, this run has 16"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_one_line(case, world, command, whole, tmp_path, capsys):
    """Before the first job of a sweep, where the file alone shows it; else its own run stops and the others go on."""
    run = interrupted(whole, tmp_path)
    damage, what = DAMAGE[case]
    damage(run / "last.ckpt")
    sweep = ["-m", *world, "init=uniform", "tokens=1024", "seed=0,1", f"run_root={tmp_path}"]
    fits_no_run = case in ("another width", "a step beyond the end")
    assert command(*sweep) == (1 if fits_no_run else 2)
    said = capsys.readouterr().err
    begins = f"failed {run}" if fits_no_run else "error"
    assert re.search(rf"{begins}: {run}/last.ckpt: ({what}).*; remove it, and this run starts again", said)
    assert "Traceback" not in said
    assert (run.parent / "seed=1" / "metrics.json").exists() == fits_no_run


def test_the_remedy_for_a_damaged_checkpoint_is_one(world, command, whole, tmp_path):
    run = interrupted(whole, tmp_path)
    shorten(run / "last.ckpt")
    assert command(*world, *SHORT, f"run_root={tmp_path}") == 2
    (run / "last.ckpt").unlink()
    assert command(*world, *SHORT, f"run_root={tmp_path}") == 0
    assert same(run, whole)


def test_a_run_that_ends_in_nan_is_not_finished(world, command, tmp_path, capsys, monkeypatch):
    """After the last step that is logged: what is measured would be NaN, and so would its comparisons."""
    measure = SAETraining.on_validation_epoch_end

    def diverge(self: SAETraining) -> None:
        measure(self)
        self.sae.W_dec.data[0, 0] = float("nan")

    monkeypatch.setattr(SAETraining, "on_validation_epoch_end", diverge)
    assert command(*world, *SHORT, f"run_root={tmp_path}") == 2
    assert "recipe.lr=0.0003: training has ended in NaN or infinite weights; lower it" in one_error(capsys)
    assert not (tmp_path / PLACE / "metrics.json").exists()
