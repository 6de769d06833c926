"""Real sweeps through each launcher, on a CPU: the same bits as one job after another, whatever happens to workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.launchers.conftest import failures, result, sweep_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # several sweeps each, in new processes
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
SEEDS = ["seed=0,1,2"]
RAY = ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"]
LAUNCHERS = [
    pytest.param(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], id="joblib"),
    pytest.param(["hydra/launcher=submitit_local"], id="submitit"),
    pytest.param(RAY, id="ray", marks=needs_ray),
]
LONG = ["seed=5,6", "tokens=131072", "checkpoint_minutes=0.001"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_workers_give_the_same_bits_and_one_failed_job_is_one_line(launcher, train, serial, tmp_path):
    words, runs = [*SEEDS, f"run_root={tmp_path}", *launcher], tmp_path / "init=uniform" / "l0=4"
    (runs / "seed=1" / ".lock").mkdir(parents=True)  # which cannot be opened
    done = train(*words)
    (runs / "seed=1" / ".lock").rmdir()
    assert done.returncode == 1
    remedy = "cannot be written (Is a directory); mend that, or choose another folder"
    assert failures(done) == [f"failed {runs / 'seed=1'}: {runs / 'seed=1'}: {remedy}"]
    assert "Traceback" not in done.stderr
    assert all((runs / f"seed={seed}" / "metrics.json").is_file() for seed in (0, 2))
    assert [r["seeds"] for r in json.loads((tmp_path / "stability" / "stability.json").read_text())] == [[0, 2]]
    again = train(*words)
    assert (again.returncode, failures(again), again.stderr.count("finished before")) == (0, [], 2), again.stderr
    assert len(result(tmp_path)) == 4
    assert result(tmp_path) == serial(*SEEDS)


@pytest.mark.parametrize("launcher", LAUNCHERS[:2])
def test_a_task_is_a_stack(launcher, train, serial, tmp_path):
    """Eight jobs of two batch sizes, at most three a stack: as many stacks as without workers, and the same bits."""
    words = ["seed=0,1,2,3", "batch_size=64,128", "together=3", "tokens=2048"]
    done = train(*words, f"run_root={tmp_path}", *launcher)
    assert (done.returncode, failures(done)) == (0, []), done.stderr
    sizes = [json.loads(file.read_text()).get("trained_together", 1) for file in tmp_path.rglob("metrics.json")]
    assert sorted(sizes) == [1, 1, 3, 3, 3, 3, 3, 3]
    assert result(tmp_path) == serial(*words)


def test_submitit_queues_a_job_again_before_its_time_is_up(world, serial, tmp_path):
    """Its signal comes in the middle of a run: the checkpoint is of that step, and the queued job goes on from it."""
    words = [*LONG, f"run_root={tmp_path}", "hydra/launcher=submitit_local"]
    with started(world, *words) as sweep:
        wait_for(tmp_path / "init=uniform" / "l0=4" / "seed=5" / "last.ckpt", sweep)
        wait_for(tmp_path / "init=uniform" / "l0=4" / "seed=6" / "last.ckpt", sweep)
        for pid in processes("submitit.core._submit", str(tmp_path)):
            os.kill(pid, signal.SIGUSR2)
        _, err = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, err
    logs = [log.read_text() for log in (tmp_path / ".submitit").rglob("*_log.out")]
    assert sum("Requeued job" in log for log in logs) == 2
    assert result(tmp_path) == serial(*LONG)


def test_sigterm_to_the_sweep_saves_in_the_workers(world, train, serial, tmp_path):
    """joblib's workers save and end, and no other job is started. The same command goes on."""
    words = [LONG[1], f"run_root={tmp_path}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    runs = tmp_path / "init=uniform" / "l0=4"
    with started(world, *words, "seed=5,6,7", "logger=csv") as sweep:
        for seed in (5, 6):
            wait_for(runs / f"seed={seed}" / "csv" / "version_0" / "metrics.csv", sweep)  # steps are made
        sweep.send_signal(signal.SIGTERM)
        _, err = sweep.communicate(timeout=120)
    assert (sweep.returncode, "the same command goes on" in err) == (130, True), err
    assert all((runs / f"seed={seed}" / "last.ckpt").is_file() for seed in (5, 6))
    assert not (runs / "seed=7").exists()
    assert train(*words, LONG[0]).returncode == 0
    assert result(tmp_path) == serial(*LONG)


RAY_ONCE = pytest.param([*RAY, "hydra.launcher.ray.remote.max_retries=0"], id="ray-once", marks=needs_ray)


@pytest.mark.parametrize("launcher", [*LAUNCHERS, RAY_ONCE])
def test_a_killed_worker(launcher, world, train, serial, tmp_path):
    """SIGKILL, as the kernel sends it where memory is short. One line names the job, and the others finish.

    Ray starts the job again, if it may.
    """
    words, runs = ["seed=5,6,7", *LONG[1:], f"run_root={tmp_path}", *launcher], tmp_path / "init=uniform" / "l0=4"
    with started(world, *words) as sweep:
        for seed in (5, 6):
            wait_for(runs / f"seed={seed}" / "last.ckpt", sweep)
        os.kill(holder(runs / "seed=5"), signal.SIGKILL)
        _, err = sweep.communicate(timeout=600)
    assert "Traceback" not in err
    lost = [line for line in err.splitlines() if line.startswith("failed ")]
    if launcher == RAY:
        assert (sweep.returncode, lost) == (0, []), err
    else:
        assert sweep.returncode == 1
        assert len(lost) == 1
        assert lost[0].startswith(f"failed {runs / 'seed=5'}: its worker ended (")
        assert all((runs / f"seed={seed}" / "metrics.json").is_file() for seed in (6, 7))
        assert train(*words).returncode == 0
    assert result(tmp_path) == serial(*words[:3])


class started:  # noqa: N801  a context manager
    """A sweep that runs; it is killed with its workers where the test fails."""

    def __init__(self, world: list[str], *words: str) -> None:
        self.process = subprocess.Popen(
            sweep_command(world, *words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored behind a shell's &
        )  # fmt: skip

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not path.is_file():
        assert process.poll() is None, "the sweep ended before"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes(*words: str) -> Iterator[int]:
    """The processes whose command line holds all words."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            yield int(entry.name)


def holder(run: Path) -> int:
    """The process that trains a run: the one with the run's lock file open."""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if run in Path(os.readlink(entry)).parents:
                return int(entry.parts[2])
        except OSError:
            continue
    raise AssertionError(f"no process has a file in {run} open")
