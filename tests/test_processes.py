"""A job is one process with its number of threads, whatever runs it: a scheduler, a launcher, numba's own workers."""

import json
import os
import subprocess
import sys

import pytest

from tests.pipeline import same

SCHEDULERS = (
    {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "NODE_RANK": "1", "GROUP_RANK": "1"},
    {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "5", "SLURM_JOB_NAME": "sweep", "SLURM_LOCALID": "1"},
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "logger"), zip(SCHEDULERS, ("csv", "wandb"), strict=True), ids=["torchrun", "slurm"]
)
def test_a_task_of_a_scheduler_is_a_job_of_its_own(variables, logger, world, tmp_path):
    """Lightning reads a rank from these as it is imported; then nothing would be logged, or the run would fail."""
    arguments = [*world, "init=uniform", f"run_root={tmp_path}", f"logger={logger}"]
    surroundings = {**os.environ, **variables, "WANDB_MODE": "offline"}
    done = subprocess.run([sys.executable, "-m", "saemd.train", *arguments], env=surroundings, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    run = tmp_path / "init=uniform" / "l0=4" / "seed=24"
    assert (run / "metrics.json").is_file()
    assert list(run.glob({"csv": "csv/*/metrics.csv", "wandb": "wandb/offline-run-*/*.wandb"}[logger]))


def test_threads_hold_for_torch_and_numba():
    """numba's workers, when they start, set OpenMP's number of threads, and so torch's, to all cores."""
    program = """
import resource, time, numba, torch
from saemd.threads import use_threads
use_threads(1)
from saemd.training.optimizer_kernels import gradient_norms
import numpy as np
W = np.ones((4096, 512), np.float32)
out = np.empty(4096, np.float32), np.empty(4096, np.float32)
gradient_norms(W, W, True, *out)  # compiles
a = torch.ones(700, 700)
used, started = resource.getrusage(resource.RUSAGE_SELF).ru_utime, time.perf_counter()
while time.perf_counter() - started < 1:
    gradient_norms(W, W, True, *out)
    a @ a
used = resource.getrusage(resource.RUSAGE_SELF).ru_utime - used
print(torch.get_num_threads(), numba.get_num_threads(), used / (time.perf_counter() - started))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    torch_threads, numba_threads, cpu_seconds_per_second = done.stdout.split()
    assert (torch_threads, numba_threads) == ("1", "1")
    assert float(cpu_seconds_per_second) < 1.2


@pytest.mark.slow
def test_a_parallel_launcher_gives_the_same_runs(world, command, tmp_path):
    """Two processes through Hydra's joblib launcher: the same weights and table as one after another, and skipped."""
    sweep = ["-m", *world, "init=uniform", "seed=0,1"]
    parallel = [*sweep, f"run_root={tmp_path / 'b'}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert command(*sweep, f"run_root={tmp_path / 'a'}") == 0
    program = [sys.executable, "-m", "saemd.train", *parallel]
    assert subprocess.run(program, capture_output=True).returncode == 0
    runs = [path.parent.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("metrics.json")]
    assert len(runs) == 2
    assert all(same(tmp_path / "a" / run, tmp_path / "b" / run) for run in runs)
    tables = [json.loads((tmp_path / root / "stability" / "stability.json").read_text()) for root in "ab"]
    assert tables[0] == tables[1]
    (tmp_path / "b" / runs[0] / "metrics.json").unlink()  # as if it had been stopped
    assert subprocess.run(program, capture_output=True).returncode == 0
    assert all(same(tmp_path / "a" / run, tmp_path / "b" / run) for run in runs)
