"""One SAE on several devices: the same steps as on one, files once, and a job that goes on with any number of them."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from saemd.composition import compose_all
from saemd.config import Config
from saemd.runs import METRICS, run_dir
from saemd.training.checkpoints import step_of
from saemd.training.processes import in_processes
from tests.pipeline import same, weights
from tests.training import sharing

# Errors relative to the largest value. The plain loss runs in float64; of twins it is one step, in which the CPU's may
# multiply factors rounded to bfloat16.
TOLERANCES = {"twin cpu": 1e-2, "twin gpu": 1e-5, "stack": 1e-5}


def assert_same(one: dict, several: dict) -> None:
    assert one.keys() == several.keys()
    for case, expected in one.items():
        tolerance = next((value for kind, value in TOLERANCES.items() if kind in case), 1e-9)
        for name, value in expected.items():
            error = (several[case][name].double() - value.double()).abs().max()
            assert error <= tolerance * value.double().abs().max().clamp(min=1e-3), f"{case} {name}: {error}"


def test_steps_through_collectives_are_those_of_one_device():
    assert_same(sharing.of_one(steps=8), sharing.through_a_group_of_one(steps=8))


@pytest.mark.slow
def test_devices_that_share_a_batch_make_the_steps_of_one():
    assert_same(sharing.of_one(sharing.STEPS), in_processes(sharing.of_several, sharing.STEPS, devices=2))


@pytest.fixture
def jobs(world, tmp_path):
    """The jobs of a sweep of 50 steps into `tmp_path / name`."""

    def make(name: str, *words: str) -> list[Config]:
        common = ["-m", *world, "init=uniform", "tokens=3200", "recipe.lr_warmup_fraction=0.05", "recipe.fast=false"]
        return compose_all([*common, f"run_root={tmp_path / name}", *words])

    return make


def assert_same_runs(one: list[Config], several: list[Config]) -> None:
    """The plain float32 runs end in the same weights to 1e-5 of the largest of each tensor."""
    for a, b in zip(one, several, strict=True):
        for name, value in weights(run_dir(a)).items():
            error = (weights(run_dir(b))[name] - value).abs().max()
            assert error <= 1e-5 * value.abs().max(), f"{run_dir(b)} {name}: {error}"


ARCHITECTURES = "jumprelu,jumprelu_reference,topk,batch_topk,matryoshka_batch_topk,gated"


@pytest.mark.slow
def test_runs_of_two_devices_are_those_of_one(jobs):
    one, two = jobs("one", f"sae={ARCHITECTURES}"), jobs("two", f"sae={ARCHITECTURES}", "devices=2", "snapshots=[640]")
    sharing.train_runs((one, None))
    in_processes(sharing.train_runs, (two, None), devices=2)
    assert_same_runs(one, two)
    for config in two:
        assert len([*run_dir(config).rglob(METRICS)]) == 2, "the run, and its snapshot"


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 2])
def test_latents_that_start_anew_on_two_devices_are_those_of_one(together, jobs):
    anew = ["recipe.resample_steps=2", "recipe.lr=0.03", "l0=1,2", f"together={together}"]
    never, one, two = jobs("never", *anew[1:]), jobs("one", *anew), jobs("two", *anew, "devices=2")
    sharing.train_runs((never, None))
    sharing.train_runs((one, None))
    in_processes(sharing.train_runs, (two, None), devices=2)
    assert_same_runs(one, two)
    for a, b in zip(never, one, strict=True):
        assert not torch.equal(weights(run_dir(a))["W_dec"], weights(run_dir(b))["W_dec"])


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_stopped_job_goes_on_with_another_number_of_devices(first, then, jobs):
    (whole,), (begun,), (ended,) = jobs("whole"), jobs("run", f"devices={first}"), jobs("run", f"devices={then}")
    sharing.train_runs(([whole], None))
    for config, stop in ((begun, 20), (ended, None)):
        call = sharing.train_runs if config.devices == 1 else lambda job: in_processes(sharing.train_runs, job, 2)
        if stop:
            with pytest.raises(KeyboardInterrupt):
                call(([config], stop))
            assert step_of(run_dir(config)) == stop + 1
        else:
            call(([config], None))
    assert_same_runs([whole], [ended])


@pytest.mark.slow
def test_a_stack_on_two_devices_is_a_stack_on_one(jobs):
    words = ["together=2", "l0=3,5"]
    one, two = jobs("one", *words), jobs("two", *words, "devices=2")
    sharing.train_runs((one, None))
    in_processes(sharing.train_runs, (two, None), devices=2)
    assert_same_runs(one, two)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["devices=0"], "devices=0: use at least 1"),
        (["devices=3"], "batch_size=64: use a multiple of devices=3"),
        (["devices=2", "activations=memory"], "activations.name=memory: each device would run the language model"),
        (["devices=64"], "devices=64: this machine has"),
    ],
)
def test_bad_input_is_refused(words, line, world, command, tmp_path, capsys):
    assert command(*world, f"run_root={tmp_path}", *words) == 2
    assert f"error: {line}" in capsys.readouterr().err


def test_processes_of_another_number_or_a_sweep_are_refused(world, command, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert command("-m", *world, f"run_root={tmp_path}", "devices=4", "seed=1,2") == 2
    assert "devices=4: torchrun and srun start the processes of one job" in capsys.readouterr().err
    assert command(*world, f"run_root={tmp_path}", "devices=2") == 2
    assert "devices=2: torchrun or srun has started 4 processes" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_starts_the_same_run(world, tmp_path):
    """With its cache to be written first; what is printed and logged comes once, and the weights are the same bits."""
    words = [*world, "init=uniform", "tokens=3200", "devices=2", "logger=csv", f"cache_root={tmp_path / 'cache'}"]
    torchrun = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", "2", "-m"]
    for name, program in (("torchrun", torchrun), ("own", [sys.executable, "-m"])):
        command = [*program, "saemd.train", *words, f"run_root={tmp_path / name}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("activations: done, ") == (name == "torchrun")
        assert done.stderr.count("seed=24: done, ") == 1
        assert done.stderr.count(f"{tmp_path / name}/init=uniform/l0=4/seed=24  L0 ") == 1
    runs = [tmp_path / name / "init=uniform" / "l0=4" / "seed=24" for name in ("torchrun", "own")]
    assert same(*runs)
    for run in runs:
        steps = [row["step"] for row in csv.DictReader(next(run.rglob("metrics.csv")).open()) if row["train/loss"]]
        assert steps == [*dict.fromkeys(steps)]


@pytest.mark.slow
def test_a_killed_process_ends_the_command(world, tmp_path):
    words = [*world, "init=uniform", "tokens=6400000", "devices=2", f"run_root={tmp_path}", "checkpoint_minutes=0.001"]
    checkpoint = tmp_path / "init=uniform" / "l0=4" / "seed=24" / "last.ckpt"
    with subprocess.Popen([sys.executable, "-m", "saemd.train", *words], stderr=subprocess.PIPE, text=True) as command:
        while not checkpoint.exists():
            assert command.poll() is None
            time.sleep(0.1)
        children = [int(pid) for pid in Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()]
        os.kill(max(children), signal.SIGKILL)
        _, said = command.communicate()
        assert command.returncode == 1
        assert "ended with code -9" in said
        assert not any(Path(f"/proc/{child}").exists() for child in children)
