"""What workers are given: their tasks, one GPU or a part of the cores each, and the checks that need their hardware."""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import signal
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from joblib.externals.loky import ProcessPoolExecutor

from saemd.composition import compose_all
from saemd.config import Config
from saemd.errors import UserError
from saemd.launchers import Workers, divide, find_launcher
from saemd.launchers.by_joblib import JoblibWorkers, visible_gpus
from saemd.launchers.worker import stops_on_sigterm, train_task

SWEEP = ["-m", "init=uniform", "seed=0,1,2,3"]


@dataclasses.dataclass
class Fake(Workers):
    count: int | None = 2
    have_gpu: bool = False
    threads: int | None = 3

    def run(self, tasks):
        raise AssertionError("these workers run nothing")


@functools.cache
def composed(*words: str) -> list[Config]:
    return compose_all([*words, *SWEEP])


def jobs(world: list[str], *words: str, run_root: Path | None = None) -> list[Config]:
    """The sweep's jobs, composed once for all tests."""
    configs = composed(*world, *words)
    return [dataclasses.replace(config, **({"run_root": str(run_root)} if run_root else {})) for config in configs]


def seeds(tasks: list[list[Config]]) -> list[list[int]]:
    return [[config.seed for config in task] for task in tasks]


@pytest.mark.parametrize(
    ("words", "workers", "expected"),
    [
        ([], Fake(), [[0], [1], [2], [3]]),
        (["together=3"], Fake(), [[0, 1, 2], [3]]),
        (["together=auto"], Fake(), [[0], [1], [2], [3]]),  # on a CPU
        (["together=auto"], Fake(have_gpu=True), [[0, 1], [2, 3]]),  # an equal share for each of two workers
        (["together=auto"], Fake(count=None, have_gpu=True), [[0, 1, 2, 3]]),
        (["together=2", "tokens=640,1280"], Fake(), [[0, 1], [2, 3], [0, 1], [2, 3]]),  # which cannot share
    ],
)  # fmt: skip
def test_tasks(words, workers: Workers, expected, world, tmp_path):
    tasks = divide(jobs(world, *words, run_root=tmp_path), workers)
    assert sorted(seeds(tasks)) == sorted(expected)
    assert {config.together for task in tasks for config in task} == {
        int(word[9:]) if word[9:].isdigit() else word[9:] for word in words if word.startswith("together=")
    } or not words


def test_too_large_a_stack_is_refused_before_the_launch(world, tmp_path):
    with pytest.raises(UserError, match=r"together=100000000: .* would fit"):
        divide(jobs(world, "together=100000000", run_root=tmp_path), Fake())


def test_threads_are_the_workers_unless_given(world, tmp_path):
    words = [word for word in world if not word.startswith("threads=")]
    assert {task[0].threads for task in divide(jobs(words, run_root=tmp_path), Fake())} == {3}
    assert {task[0].threads for task in divide(jobs(world, run_root=tmp_path), Fake())} == {1}


@pytest.mark.parametrize(
    ("n_jobs", "gpus", "cores", "count", "threads"),
    [(-1, 0, 8, 4, 2), (2, 0, 8, 2, 4), (3, 0, 2, 3, 1), (-1, 2, 8, 2, 4), (4, 2, 8, 4, 2), (-6, 0, 8, 3, 2)],
)
def test_workers_of_joblib(n_jobs, gpus, cores, count, threads, world, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings = {"n_jobs": n_jobs}
    workers = JoblibWorkers(settings, jobs(world, "accelerator=auto"))
    assert (workers.count, workers.have_gpu, workers.threads) == (count, gpus > 0, threads)
    assert not JoblibWorkers(settings, jobs(world, "accelerator=cpu")).have_gpu


def test_visible_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5a")
    assert visible_gpus() == ["3", "GPU-5a"]


def test_each_worker_has_a_gpu_of_its_own(world, monkeypatch, tmp_path):
    """Three workers for two GPUs, and one for both. A worker's process starts with the variable."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    configs = jobs(world, "accelerator=auto", run_root=tmp_path)

    def devices(n_jobs: int) -> list[str | None]:
        workers = JoblibWorkers({"n_jobs": n_jobs}, configs)
        return [workers.environment(k).get("CUDA_VISIBLE_DEVICES") for k in range(n_jobs)]

    assert devices(3) == ["4", "7", "4"]
    assert devices(1) == [None]
    assert "CUDA_VISIBLE_DEVICES" not in JoblibWorkers({"n_jobs": 2}, jobs(world, "accelerator=cpu")).environment(0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with ProcessPoolExecutor(1, env=JoblibWorkers({"n_jobs": 2}, configs).environment(1)) as worker:
        seen = worker.submit(os.getenv, "CUDA_VISIBLE_DEVICES"), worker.submit(os.getenv, "OMP_NUM_THREADS")
        assert [found.result() for found in seen] == ["7", str(max(1, (os.cpu_count() or 1) // 2))]


def test_a_gpu_is_looked_for_where_the_job_runs(world, command, tmp_path, monkeypatch, capsys):
    """Not on the machine that starts a sweep on a cluster; each worker says what it lacks."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = [*world, *SWEEP[:2], "seed=0,1", "accelerator=gpu", f"run_root={tmp_path}"]
    assert command(*words) == 2
    assert command(*words, "hydra/launcher=joblib") == 2
    assert capsys.readouterr().err.count("accelerator=gpu: this machine has no GPU that torch can use") == 2
    assert not list(tmp_path.rglob("config.yaml"))
    (outcome,) = train_task(compose_all([*world, "accelerator=gpu", f"run_root={tmp_path}"]), os.getcwd())
    assert outcome.metrics is None
    assert outcome.note.startswith("accelerator=gpu: this machine has no GPU that torch can use")
    assert outcome.trace == ""


def test_memory_is_the_workers(world, monkeypatch, tmp_path):
    from saemd.preflight import check_jobs

    monkeypatch.setattr("os.sysconf", lambda name: 10)
    configs = jobs(world, run_root=tmp_path)
    with pytest.raises(UserError, match=r"d_sae=None: a run takes .* of memory, this machine has"):
        check_jobs(configs)
    assert check_jobs(configs, on_this_machine=False) == [None] * 4
    outcome = train_task(configs[:1], os.getcwd())[0]
    assert outcome.note.startswith("d_sae=None: a run takes")


def test_a_defect_is_one_traceback_a_task(world, monkeypatch, tmp_path):
    def fail(configs):
        raise RuntimeError("broken")

    monkeypatch.setattr("saemd.seeds.train_together", fail)
    first, second = train_task(jobs(world, "together=2", run_root=tmp_path)[:2], os.getcwd())
    assert (first.note, second.note) == ("broken", "broken")
    assert ("RuntimeError: broken" in first.trace, second.trace) == (True, "")
    pickle.loads(pickle.dumps(first))


def test_configurations_travel(world):
    configs = jobs(world)
    assert pickle.loads(pickle.dumps(configs)) == configs


def test_sigterm_outside_a_training_loop_ends_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stops_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    with stops_on_sigterm():  # as within Lightning's loop, whose handler calls the one before
        inner = signal.getsignal(signal.SIGTERM)
        assert callable(inner)
        called = []
        signal.signal(signal.SIGTERM, lambda number, frame: (called.append(number), inner(number, frame)))
        os.kill(os.getpid(), signal.SIGTERM)
        assert called
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1", "hydra/launcher=joblib"], "hydra/launcher=joblib: starts the jobs of a sweep; add -m"),
        (
            ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"],
            "hydra.launcher.n_jobs=0: use a number of workers",
        ),
        (["-m", "hydra/launcher=submitit_local", "hydra.launcher.nodes=2"], "hydra.launcher.nodes=2: a job is one"),
        (
            ["-m", "hydra/launcher=slurm"],
            "hydra/launcher: SLURM's srun is not here; start the sweep on a machine of the cluster",
        ),
        (["-m", "hydra/launcher=joblib", "hydra.launcher.njobs=2"], "hydra.launcher.njobs: there is no such key"),
        (
            ["-m", "hydra/launcher=submitit_local", "+hydra.launcher.colour=red"],
            "hydra.launcher: Unknown argument 'colour' for executor 'local'",
        ),
    ],
)
def test_bad_settings_are_one_line(words, message, world, command, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert command(*world, "init=uniform", *words, f"run_root={tmp_path}") == 2
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("plan:")]
    assert len(err) == 1
    assert err[0].startswith(f"error: {message}")
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize(
    ("name", "said", "extra"),
    [
        ("joblib", "joblib", "joblib"),
        ("slurm", "submitit_slurm", "slurm"),
        ("submitit_local", "submitit_local", "slurm"),
        ("ray", "ray", "ray"),
    ],
)
def test_a_launcher_that_is_not_installed_is_one_line(name, said, extra, command, capsys, monkeypatch, tmp_path):
    compose_all([])  # Hydra finds its plugins
    installed = ConfigStore.instance().repo["hydra"]["launcher"]
    for plugin in ("joblib", "submitit_slurm", "submitit_local"):
        monkeypatch.delitem(installed, f"{plugin}.yaml")
    monkeypatch.setattr("saemd.launchers.find_spec", lambda package: None)
    assert command("-m", f"hydra/launcher={name}", f"run_root={tmp_path}") == 2
    assert capsys.readouterr().err == f"error: hydra/launcher={said}: is not installed; pip install 'saemd[{extra}]'\n"


def test_other_launchers_of_hydra_start_single_jobs(world, monkeypatch):
    monkeypatch.setitem(ConfigStore.instance().repo, "hydra", {**ConfigStore.instance().repo["hydra"]})
    ConfigStore.instance().store(group="hydra/launcher", name="other", node={"_target_": "hydra_plugins.other.Other"})
    words = [*world, *SWEEP, "hydra/launcher=other"]
    assert find_launcher(words, compose_all(words)) is None
    words.append("together=2")
    with pytest.raises(UserError, match="hydra/launcher=other: starts jobs one by one, together trains several as one"):
        find_launcher(words, compose_all(words))
