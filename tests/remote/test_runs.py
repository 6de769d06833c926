"""Runs in a store: trained on one machine, gone on with, compared and exported on another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from saemd import consensus, export, load_sae, plan
from saemd.composition import compose_all
from saemd.remote import mirror
from saemd.remote.mirror import sync
from saemd.remote.urls import RUN_ROOT, local_folder
from saemd.runs.files import HeldError
from saemd.seeds import train
from saemd.stability import __main__ as stability
from saemd.training.callbacks import ProgressBar
from tests.pipeline import same
from tests.remote.conftest import objects

RUN = "init=mirror/l0=4/seed=0"


@pytest.fixture
def inputs(world: list[str], bucket: str) -> list[str]:
    """The overrides of a run whose activations and folder are in the store."""
    return [
        *(word for word in world if not word.startswith("cache_root=")), "init=mirror", "seed=0",
        f"cache_root={bucket}/caches", f"run_root={bucket}/runs", "checkpoint_minutes=1e-6",
    ]  # fmt: skip


@pytest.fixture
def on_disk(world: list[str], command, tmp_path: Path) -> Path:
    """The same run from folders of this machine."""
    assert command(*world, "init=mirror", "seed=0", f"run_root={tmp_path / 'runs'}") == 0
    return tmp_path / "runs" / RUN


class Killed(BaseException):
    pass


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(self, trainer, *arguments) -> None:
        if trainer.global_step == step:
            raise Killed

    monkeypatch.setattr(ProgressBar, "on_train_batch_end", kill)


def test_a_run_from_the_store_has_the_bits_of_one_from_the_disk(
    inputs: list[str], bucket: str, command, on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[str] = []
    monkeypatch.setattr("saemd.files.push", lambda path: (pushed.append(path.name), mirror.push(path)))
    monkeypatch.chdir(tmp_path)
    assert command(*inputs) == 0
    assert not [path for path in tmp_path.iterdir() if ":" in path.name]  # no folder named as the URL
    run = local_folder(RUN_ROOT, f"{bucket}/runs/{RUN}")
    assert same(run, on_disk)
    of_run = [name for name in pushed if (run / name).exists()]
    assert of_run[0] == "config.yaml"
    assert of_run[1] == "last.ckpt"
    assert of_run[-4:] == ["sae_weights.safetensors", "cfg.json", "latents.npz", "metrics.json"]
    there = objects(f"{bucket}/runs/{RUN}")
    assert there == {path.name: path.read_bytes() for path in run.iterdir() if not path.name.startswith(".")}
    saved = there["config.yaml"].decode()
    assert f"run_root: {bucket}/runs\n" in saved
    assert f"cache_root: {bucket}/caches\n" in saved


def test_another_machine_goes_on_with_an_interrupted_run(
    inputs: list[str], bucket: str, command, on_disk: Path, machine: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        kill_at(40, patch)
        with pytest.raises(Killed):
            command(*inputs)
    assert {*objects(f"{bucket}/runs/{RUN}")} == {"config.yaml", "last.ckpt"}  # the claim has been given back
    machine("second")
    assert command(*inputs) == 0
    run = local_folder(RUN_ROOT, f"{bucket}/runs/{RUN}")
    assert same(run, on_disk)
    assert json.loads((run / "metrics.json").read_text())["steps"] == 128
    machine("third")
    capsys.readouterr()
    assert command(*inputs) == 0
    assert "finished before" in capsys.readouterr().err
    assert not (local_folder(RUN_ROOT, f"{bucket}/runs/{RUN}") / "last.ckpt").exists()  # nobody needs it here


def test_a_run_that_another_machine_finishes_meanwhile_is_not_trained_again(
    inputs: list[str], bucket: str, command, machine: Callable[[str], None]
) -> None:
    """It has not looked at the store since the sweep's check."""
    (config,) = compose_all(inputs)
    machine("second")
    assert train(compose_all(inputs)[0])["steps"] == 128
    before = objects(f"{bucket}/runs/{RUN}")
    machine("first")
    with pytest.raises(HeldError, match="another process has just finished this run"):
        train(config)
    assert objects(f"{bucket}/runs/{RUN}") == before
    assert (local_folder(RUN_ROOT, f"{bucket}/runs/{RUN}") / "metrics.json").read_bytes() == before["metrics.json"]


@pytest.mark.slow
def test_a_sweep_is_compared_and_exported_from_the_store(
    inputs: list[str], bucket: str, command, machine: Callable[[str], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert command("-m", *inputs[:-4], "seed=0,1", *inputs[-3:], "tokens=2048") == 0
    assert not [path for path in tmp_path.iterdir() if ":" in path.name]
    report = objects(f"{bucket}/runs/stability")
    assert {"stability.json", "report.html", "cells.json"} <= report.keys()
    assert [record["seeds"] for record in json.loads(report["stability.json"])] == [[0, 1]]

    machine("second")
    fsspec.filesystem("memory").rm("/bucket/runs/stability", recursive=True)
    assert command(f"run_root={bucket}/runs", "activations=128", main=stability.main) == 0
    again = objects(f"{bucket}/runs/stability")
    records = json.loads(again["stability.json"])
    assert records[0]["same_match"] == json.loads(report["stability.json"])[0]["same_match"]
    assert records[0]["correlation_tokens"] == 128

    machine("third")
    assert command(f"run_root={bucket}/runs", f"out={tmp_path / 'all'}", main=export.main) == 0
    assert command(f"run={bucket}/runs/{RUN}", f"out={tmp_path / 'one'}", main=export.main) == 0
    assert load_sae(tmp_path / "one").d_sae == load_sae(tmp_path / "all" / RUN).d_sae == 48
    assert command(f"run={bucket}/runs/{RUN}", f"out={bucket}/x", main=export.main) == 2
    assert "out=memory://bucket/x: name a folder of this machine" in capsys.readouterr().err


def test_a_consensus_of_runs_in_the_store(
    inputs: list[str], bucket: str, command, machine: Callable[[str], None], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It has the bits of one from folders, and on another machine it is the same run."""
    assert command("-m", *inputs, "seed=0,1", "tokens=1280", "together=2") == 0
    shutil.copytree(local_folder(RUN_ROOT, f"{bucket}/runs"), tmp_path / "disk")
    words = ["seeds=2", "tokens=640", "shared_threshold=0.2"]
    assert command(f"run_root={tmp_path / 'disk'}", *words, main=consensus.main) == 0
    assert command(f"run_root={bucket}/runs", *words, main=consensus.main) == 0
    made = "init=mirror-consensus/l0=4/of=2/shared_threshold=0.2/tokens=640/seed=0"
    there = objects(f"{bucket}/runs")
    assert f"sae: {bucket}/runs/consensus/mirror-l0=4-0-1-" in there[f"{made}/config.yaml"].decode()

    machine("second")
    capsys.readouterr()
    assert command(f"run_root={bucket}/runs", *words, main=consensus.main) == 0
    assert "a consensus of 2 seeds" in capsys.readouterr().err
    assert same(local_folder(RUN_ROOT, f"{bucket}/runs/{made}"), tmp_path / "disk" / made)
    again = objects(f"{bucket}/runs")
    assert {name: again[name] for name in there if "stability/" not in name} == {
        name: there[name] for name in there if "stability/" not in name
    }


def test_a_plan_with_urls(
    inputs: list[str], bucket: str, command, machine: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 0 is trained on one machine; another one's plan of two seeds leaves it and the activations out."""
    assert command(*inputs) == 0
    before = objects(bucket)
    machine("second")
    capsys.readouterr()
    words = ["-m", *inputs, "seed=0,1"]
    assert command("--no-measure", *words, main=plan.main) == 0
    out, err = capsys.readouterr()
    assert err.startswith(f"files from and to {bucket}/runs: done")
    assert err.count("\n") == 1
    assert out.startswith("2 jobs (1 finished)")
    assert "harvest layer 1: there already" in out
    assert "compare 1 pair of seeds" in out
    flat = " ".join(out.split())
    assert f"activations of layer 1, in {bucket}/caches" in flat
    assert "local copies of them" in flat
    assert f"2 run directories, as in {bucket}/runs" in flat
    assert objects(bucket) == before


@pytest.mark.parametrize(
    ("words", "main", "said"),
    [
        (
            ["run_root=memory://bucket/runs"],
            consensus.main,
            "run_root=memory://bucket/runs: no such folder",
        ),
        (["run_root=memory://nobucket/runs"], consensus.main, "no such bucket"),
        (["run_root=memory://nobucket/runs"], plan.main, "no such bucket"),
        (["cache_root=memory://nobucket/caches"], plan.main, "no such bucket"),
        (["run_root=memory://nobucket/runs"], stability.main, "no such bucket"),
        (["run_root=nostore://b/runs"], export.main, "out=…"),
        (["run_root=nostore://b/runs", "out=x"], export.main, "no store is known"),
    ],
)
def test_what_does_not_work_is_refused_in_one_line(
    bucket: str, command, capsys: pytest.CaptureFixture[str], words: list[str], main, said: str
) -> None:
    assert command(*words, main=main) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "url", "said"),
    [
        ("run_root", "nostore://b/runs", "no store is known"),
        ("cache_root", "nostore://b/runs", "no store is known"),
        ("run_root", "memory://nobucket/runs", "no such bucket"),
        ("cache_root", "memory://nobucket/runs", "no such bucket"),
        ("run_root", "s3://key:secret@b/runs", "leave the credentials out"),
    ],
)
def test_training_refuses_a_store_before_anything_else(
    world: list[str], bucket: str, command, capsys: pytest.CaptureFixture[str], tmp_path: Path, key: str, url: str,
    said: str,
) -> None:  # fmt: skip
    words = [word for word in world if not word.startswith(f"{key}=")]
    root = [] if key == "run_root" else [f"run_root={tmp_path / 'runs'}"]
    assert command(*words, *root, f"{key}={url}") == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {key}=")
    assert said in printed
    assert "secret" not in printed
    assert printed.count("\n") == 1


def test_the_store_decides_between_two_copies(bucket: str, machine: Callable[[str], None]) -> None:
    def root() -> Path:
        return local_folder(RUN_ROOT, f"{bucket}/runs")

    def write(name: str, text: str) -> Path:
        path = root() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    for name in ("kept", "changed here", "changed there", "deleted there"):
        write(name, "first")
    sync(root())
    memory = fsspec.filesystem("memory")
    write("changed here", "second")
    write("new here", "first")
    memory.pipe_file("/bucket/runs/changed there", b"second")
    memory.pipe_file("/bucket/runs/new there", b"first")
    memory.pipe_file("/bucket/runs/not wanted", b"first")
    memory.rm_file("/bucket/runs/deleted there")
    sync(root(), lambda path: path.name != "not wanted")
    expected = {
        "kept": b"first", "changed here": b"second", "changed there": b"second", "new here": b"first",
        "new there": b"first",
    }  # fmt: skip
    here = {path.name: path.read_bytes() for path in root().iterdir() if path.is_file()}
    assert here == expected
    assert objects(f"{bucket}/runs") == {**expected, "not wanted": b"first"}
