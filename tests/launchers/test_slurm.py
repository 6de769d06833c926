"""`hydra/launcher=slurm` against SLURM's commands, as far as submitit uses them (`fake_slurm.py`)."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.launchers import fake_slurm
from tests.launchers.conftest import failures, result
from tests.launchers.test_sweeps import LONG, processes, started, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # several sweeps each, in new processes
SLURM = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"]


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    """The cluster's folder of jobs; its commands are on the PATH."""
    commands, state = tmp_path / "bin", tmp_path / "slurm"
    commands.mkdir()
    state.mkdir()
    for name in ("sbatch", "srun", "scontrol", "sacct"):
        (commands / name).write_text(f"#!{sys.executable}\n{Path(fake_slurm.__file__).read_text()}")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    return state


def stop_jobs(state: Path, run_root: Path, kind: str) -> None:
    """As SLURM does: it says what becomes of a job before it signals the job's process."""
    for job in filter(Path.is_dir, state.iterdir()):
        if kind == "cancelled":
            fake_slurm.report(job, "CANCELLED")
        if kind == "preempted at once":
            fake_slurm.report(job, "PENDING")
            (job / "requeue").touch()
    for pid in processes("submitit.core._submit", str(run_root)):
        os.kill(pid, signal.SIGUSR2 if kind == "out of time" else signal.SIGTERM)


@pytest.mark.parametrize("kind", ["out of time", "preempted in a grace time", "preempted at once", "cancelled"])
def test_a_stopped_job(kind, state, world, serial, train, tmp_path):
    """It saves and ends. One that is out of time or in its grace time queues itself, one that is cancelled does not."""
    run_root = tmp_path / "runs"
    words, runs = [*LONG, f"run_root={run_root}", *SLURM], run_root / "init=uniform" / "l0=4"
    with started(world, *words) as sweep:
        for seed in (5, 6):
            wait_for(runs / f"seed={seed}" / "last.ckpt", sweep)
        stop_jobs(state, run_root, kind)
        _, err = sweep.communicate(timeout=300)
    assert "submitted 2 tasks" in err
    assert len(list(state.glob("*/requeued"))) == (0 if kind == "cancelled" else 2)
    by_itself = kind in ("out of time", "preempted in a grace time")
    assert len(list(state.glob("*/by itself"))) == (2 if by_itself else 0)
    if kind == "cancelled":
        lines = [line for line in err.splitlines() if line.startswith("failed")]
        assert (sweep.returncode, len(lines)) == (1, 2), err
        assert all("its worker ended (job 100_" in line and "left no result, cancelled; log" in line for line in lines)
        assert not list(runs.rglob("metrics.json"))
        assert train(*words).returncode == 0
    else:
        assert sweep.returncode == 0, err
    assert result(run_root) == serial(*LONG)


def test_what_is_asked_of_slurm(state, train, tmp_path):
    assert train("seed=0,1", f"run_root={tmp_path / 'runs'}", *SLURM).returncode == 0
    (script,) = state.glob("*.sh")
    asked = {line.removeprefix("#SBATCH --") for line in script.read_text().splitlines()}
    assert asked > {"array=0-1%2", "cpus-per-task=1", "job-name=saemd", "mem=64GB", "requeue", "time=1440"}
    assert any(line.startswith("signal=USR2@300") for line in asked)


def test_a_gpu_is_looked_for_in_the_job(state, train, tmp_path):
    done = train("accelerator=gpu", "seed=0,1", f"run_root={tmp_path / 'runs'}", *SLURM)
    assert done.returncode == 1
    assert [line.partition(": ")[2] for line in failures(done)] == [
        "accelerator=gpu: this machine has no GPU that torch can use; use auto or cpu"
    ] * 2
