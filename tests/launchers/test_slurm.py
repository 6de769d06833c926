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


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_job_goes_on(number, state, world, serial, tmp_path):
    """SIGUSR2 comes before the time is up: queued again. SIGTERM comes before a kill: saved, and trained until then."""
    run_root = tmp_path / "runs"
    words = [*LONG, f"run_root={run_root}", *SLURM]
    with started(world, *words) as sweep:
        for seed in (5, 6):
            wait_for(run_root / "init=uniform" / "l0=4" / f"seed={seed}" / "last.ckpt", sweep)
        for pid in processes("submitit.core._submit", str(run_root)):
            os.kill(pid, number)
        _, err = sweep.communicate(timeout=300)
    assert (sweep.returncode, "submitted 2 tasks" in err) == (0, True), err
    assert len(list(state.glob("*/requeued"))) == (2 if number == signal.SIGUSR2 else 0)
    assert result(run_root) == serial(*LONG)
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
