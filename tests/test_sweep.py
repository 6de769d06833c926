"""The main job on a tiny language model: sweep, resume, refusal, failure, seeds. Same code as with a real one."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from saemd import cache, jobs, load_sae
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.harvest import open as harvest
from saemd.errors import UserError
from saemd.runs import held
from saemd.training.callbacks import ProgressBar
from saemd.training.record import _git_commit
from tests.pipeline import same

METRICS = [
    "tokens",
    "steps",
    "target_l0",
    "l0",
    "fvu",
    "explained_variance",
    "loss",
    "dead_fraction",
    "drift_dec",
    "drift_enc",
    "tokens_per_second",
    "seconds",
]
RECORD = [
    "init",
    "l0",
    "seeds",
    "d_sae",
    "alive",
    "mean_cos_enc",
    "mean_cos_dec",
    "same_match",
    "shared",
    "shared_threshold",
    "identity_match",
    "drift_dec",
    "drift_enc",
    "random_floor",
    "mean_cos_dec_alive",
    "shared_alive",
]


def test_sweep_from_text_to_report(world, command, tmp_path, capsys):
    sweep = ["-m", *world, f"run_root={tmp_path}", "init=mirror,uniform", "seed=0,1"]
    assert command(*sweep) == 0
    runs = [tmp_path / f"init={i}" / "l0=4" / f"seed={s}" for i in ("mirror", "uniform") for s in (0, 1)]
    for run in runs:
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics.keys() >= set(METRICS)
        assert (metrics["tokens"], metrics["steps"]) == (8192, 128)
        assert load_sae(run).W_dec.norm(dim=1).allclose(torch.ones(48))
    records = json.loads((tmp_path / "stability" / "stability.json").read_text())
    assert [(r["init"], r["l0"], r["seeds"]) for r in records] == [
        ("mirror", 4, [0, 1]), ("uniform", 4, [0, 1]),
    ]  # fmt: skip
    for record in records:
        assert record.keys() >= set(RECORD)
        assert record["same_start_dec"] == (record["init"] == "mirror")
    assert (tmp_path / "stability" / "report.html").is_file()
    assert "report" in capsys.readouterr().out

    before = {run: (run / "metrics.json").stat().st_mtime_ns for run in runs}
    assert command(*sweep) == 0
    assert before == {run: (run / "metrics.json").stat().st_mtime_ns for run in runs}


def test_a_finished_sweep_is_only_told_of(world, command, tmp_path, monkeypatch, capsys):
    """No job is started, and activations that were deleted since are not cached again."""
    sweep = ["-m", *world, f"run_root={tmp_path / 'runs'}", "init=uniform", "seed=0,1"]
    assert command(*sweep) == 0
    told = [line.split("  dead")[0] for line in capsys.readouterr().err.splitlines() if "dead" in line]
    cache_root = Path(next(word.split("=")[1] for word in world if word.startswith("cache_root")))
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "job", lambda: pytest.fail("a job was started"))
        os.rename(cache_root / "activations", tmp_path / "away")
        try:
            assert command(*sweep) == 0
            assert not (cache_root / "activations").exists()
        finally:
            os.rename(tmp_path / "away", cache_root / "activations")
    out, err = capsys.readouterr()
    assert "report" in out
    assert [line.split("  dead")[0] for line in err.splitlines() if "finished before" in line] == told != []
    assert command(*sweep, "recipe.lr=0.001") == 2
    assert capsys.readouterr().err.count("recipe.lr: 0.0003 there, 0.001 asked for") == 1


def test_metrics_are_those_of_the_exported_sae(world, command, tmp_path):
    """metrics.json against the saved weights on the cache's raw held-out activations."""
    assert command(*world, f"run_root={tmp_path}", "init=uniform", "seed=3") == 0
    run = tmp_path / "init=uniform" / "l0=4" / "seed=3"
    cache_root = next(word.split("=")[1] for word in world if word.startswith("cache_root"))
    cache = ActivationCache.open(next((Path(cache_root) / "activations").glob("*-layer1-*/manifest.json")).parent)
    x = torch.cat(list(cache.heldout(100))) * cache.scale
    sae, metrics = load_sae(run), json.loads((run / "metrics.json").read_text())
    with torch.no_grad():
        z = sae.encode(x)
        fvu = (sae.decode(z) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert metrics["l0"] == pytest.approx((z != 0).sum(1).float().mean().item(), rel=1e-3)
    assert metrics["fvu"] == pytest.approx(fvu.item(), rel=1e-3)


def test_seeds(world, command, tmp_path):
    """A seed repeats its run bit for bit; another seed differs, seed 0 included; each half of a seed counts alone."""
    for root in ("a", "b"):
        assert command(*world, f"run_root={tmp_path / root}", "init=uniform", "seed=0") == 0
    run = Path("init=uniform") / "l0=4" / "seed=0"
    assert same(tmp_path / "a" / run, tmp_path / "b" / run)
    for root, key in (("c", "init_seed=1"), ("d", "data_seed=1")):
        assert command(*world, f"run_root={tmp_path / root}", "init=uniform", "seed=0", key) == 0
        assert not same(tmp_path / "a" / run, tmp_path / root / run)
    starts = {r: yaml.safe_load((tmp_path / r / run / "config.yaml").read_text())["start"]["W_dec"] for r in "acd"}
    assert starts["a"] == starts["d"] != starts["c"]


@pytest.mark.slow
def test_killed_run_ends_bit_identical(world, command, tmp_path):
    """kill -9 in the middle, the same command again: the weights of a run that was never stopped."""
    arguments = [*world, "init=mirror", "seed=5", "tokens=65536", "checkpoint_minutes=0.001"]
    process = subprocess.Popen(
        [sys.executable, "-m", "saemd.train", *arguments, f"run_root={tmp_path / 'killed'}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    run = Path("init=mirror") / "l0=4" / "seed=5"
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / run / "last.ckpt").is_file():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / run / "metrics.json").is_file()
    step = torch.load(tmp_path / "killed" / run / "last.ckpt", weights_only=False)["global_step"]
    assert 0 < step < 1024
    assert command(*arguments, f"run_root={tmp_path / 'killed'}") == 0
    assert command(*arguments, f"run_root={tmp_path / 'whole'}") == 0
    assert same(tmp_path / "killed" / run, tmp_path / "whole" / run)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_stopped_run_says_so_and_goes_on(sent, world, command, tmp_path):
    """SIGTERM, as a queue sends it before its time is up, or Ctrl-C: an exit code, a line, and its metrics so far."""
    arguments = [*world, "init=uniform", "seed=5", "tokens=65536", "checkpoint_minutes=0.001", f"run_root={tmp_path}"]
    arguments[arguments.index("logger=none")] = "logger=csv"
    run = tmp_path / "init=uniform" / "l0=4" / "seed=5"
    process = subprocess.Popen(
        [sys.executable, "-m", "saemd.train", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored behind a shell's &
    )
    deadline = time.monotonic() + 120
    while not (run / "last.ckpt").is_file():
        assert process.poll() is None, "the run ended before it could be terminated"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    while len(next(run.glob("csv/*/metrics.csv")).read_text().splitlines()) < 2:  # what is logged can be followed
        assert process.poll() is None, "the run ended before its metrics could be read"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on from here" in said
    assert not (run / "metrics.json").is_file()
    assert command(*arguments) == 0


def test_a_run_that_a_queue_stops_loses_nothing(world, command, tmp_path, monkeypatch):
    def stop_at_30(self, trainer, *_):
        if trainer.global_step == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    arguments = [*world, "init=uniform", "seed=5"]
    monkeypatch.setattr(ProgressBar, "on_train_batch_end", stop_at_30)
    assert command(*arguments, f"run_root={tmp_path / 'stopped'}") == 130
    monkeypatch.undo()
    run = Path("init=uniform") / "l0=4" / "seed=5"
    assert torch.load(tmp_path / "stopped" / run / "last.ckpt", weights_only=True)["global_step"] == 30
    for root in ("stopped", "whole"):
        assert command(*arguments, f"run_root={tmp_path / root}") == 0
    assert same(tmp_path / "stopped" / run, tmp_path / "whole" / run)


def test_another_configuration_is_refused_with_the_difference(world, command, tmp_path, capsys):
    arguments = [*world, f"run_root={tmp_path}", "init=uniform"]
    assert command(*arguments) == 0
    run = tmp_path / "init=uniform" / "l0=4" / "seed=24"
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    capsys.readouterr()
    assert command(*arguments, "recipe.lr=0.001") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert "recipe.lr: 0.0003 there, 0.001 asked for" in error[0]
    assert before == {path: path.stat().st_mtime_ns for path in run.iterdir()}


def test_a_machine_without_git_trains(world, command, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    _git_commit.cache_clear()
    assert command(*world, f"run_root={tmp_path}", "init=uniform") == 0
    _git_commit.cache_clear()
    said = yaml.safe_load((tmp_path / "init=uniform" / "l0=4" / "seed=24" / "config.yaml").read_text())
    assert said["git_commit"] is None


def test_speed_is_not_what_a_run_is(world, command, tmp_path, capsys):
    arguments = [*world, f"run_root={tmp_path}", "init=uniform"]
    assert command(*arguments) == 0
    assert command(*arguments, "activations.prefetch_batches=0", "activations.lm_batch_tokens=64", "threads=2") == 0
    assert "finished before" in capsys.readouterr().err


def test_a_run_is_trained_by_one_process(world, command, tmp_path, capsys):
    """A single run is refused; sweeps wait (tests/launchers/test_beside.py)."""
    arguments = [*world, f"run_root={tmp_path}", "init=uniform", "seed=0"]
    with held(tmp_path / "init=uniform" / "l0=4" / "seed=0"):  # a lock of another open file, as in another process
        assert command(*arguments) == 2
    who = f"process {os.getpid()} on {platform.node()}"
    assert f"seed=0: {who} is training this run; wait for it, or stop it" in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_diverged_run_ends_in_one_line(world, command, tmp_path, capsys):
    assert command(*world, f"run_root={tmp_path}", "init=uniform", "recipe.lr=1e30") == 2
    assert re.search(r"recipe.lr=1e\+30: train/.* is (nan|inf) at step \d+; lower it", capsys.readouterr().err)
    assert not (tmp_path / "init=uniform" / "l0=4" / "seed=24" / "metrics.json").is_file()


def test_the_cache_too_is_written_where_the_accelerator_says(world, command, tmp_path, monkeypatch):
    devices = []

    def load(*args, device, **more):
        devices.append(device)
        raise UserError("seen")

    monkeypatch.setattr(harvest, "load_lm", load)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for accelerator in ("cpu", "auto"):
        arguments = [*world, f"cache_root={tmp_path}", f"accelerator={accelerator}", "activations.lm_dtype=float32"]
        assert command(*arguments, main=cache.main) == 2
    assert devices == ["cpu", "cuda"]


@pytest.mark.slow
def test_one_failed_job_does_not_take_the_others(world, command, tmp_path, capsys):
    taken = tmp_path / "init=uniform" / "l0=4" / "seed=1"
    (taken / ".lock").mkdir(parents=True)  # which cannot be opened
    assert command("-m", *world, f"run_root={tmp_path}", "init=uniform", "seed=0,1,2") == 1
    assert f"failed {taken}: {taken}: cannot be written (Is a directory)" in capsys.readouterr().err
    assert all((taken.parent / f"seed={seed}" / "metrics.json").is_file() for seed in (0, 2))
    records = json.loads((tmp_path / "stability" / "stability.json").read_text())
    assert [record["seeds"] for record in records] == [[0, 2]]


def test_one_latent(world, command, tmp_path):
    """W_enc and W_dec of one latent have the same bytes, and other shapes."""
    assert command(*world, f"run_root={tmp_path}", "init=uniform", "d_sae=1", "l0=1") == 0
    assert load_sae(tmp_path / "init=uniform" / "l0=1" / "seed=24").W_dec.shape == (1, 16)


@pytest.mark.slow
def test_memory_does_not_grow_over_jobs(world, command, tmp_path):
    """Live tensors after the last of several jobs are those after the first."""
    import gc

    counts = []
    for seed in range(3):
        assert command(*world, f"run_root={tmp_path}", "init=uniform", f"seed={seed}") == 0
        gc.collect()
        counts.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))
    assert counts[2] <= counts[0] + 5
