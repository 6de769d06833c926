"""`hydra/launcher=submitit_slurm`: each task is a SLURM job; `submitit_local`: the same as processes of this machine.

SLURM signals a job before its time is up (submitit's signal, USR2), and before it gives the machine to another job
(SIGTERM). The job saves `last.ckpt` after its step and ends, and the queued one goes on from there, as the same command
does. Who queues it: after USR2 the job itself, up to `max_num_timeout` times; after SIGTERM SLURM, or, in a grace time,
which a job that ends by itself forfeits, again the job.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

import submitit
from rich.text import Text
from submitit.core.utils import FailedJobError, UncompletedJobError

from saemd.cli import one_line
from saemd.config import Config
from saemd.errors import UserError, bad_value
from saemd.launchers import dead_worker
from saemd.launchers.worker import stops_on_sigterm, train_task
from saemd.outcomes import Outcome, show

POLL_SECONDS = 2.0
_GENERAL = {
    "name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout", "nodes", "tasks_per_node",
}  # fmt: skip
_GPU = ("gpus_per_node", "gpus_per_task", "gres")


class SubmititTask:
    """A task that saves and ends when SLURM stops it, and goes on when SLURM starts it again."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, task: list[Config]) -> list[Outcome]:
        number = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        queue_again = signal.getsignal(number)  # submitit's handler, which would end the process within a step
        signals: list[int] = []

        def stop(received: int, _: object) -> None:
            signals.append(received)
            signal.raise_signal(signal.SIGTERM)

        signal.signal(number, stop)
        try:
            with stops_on_sigterm():  # submitit's own handler would ignore one that comes before training begins
                return train_task(task, self.folder)
        except KeyboardInterrupt:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends a second one
            if callable(queue_again) and (signals or _is_running()):
                queue_again(number, None)  # ends the process
            raise

    def checkpoint(self, task: list[Config]) -> submitit.helpers.DelayedSubmission:
        """What submitit queues in the place of an interrupted task."""
        return submitit.helpers.DelayedSubmission(self, task)


def _is_running() -> bool:
    """Whether this is a SLURM job that SLURM counts as running, though SIGTERM came: one in its grace time.

    SLURM has already ended a job that is cancelled, and already queued one that it starts again without a grace time.
    """
    environment = submitit.JobEnvironment()
    if environment.cluster != "slurm":
        return False
    command = ["scontrol", "show", "job", environment.job_id]
    return "JobState=RUNNING" in subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


class SubmititWorkers:
    cluster: str
    count = None

    def __init__(self, settings: dict[str, Any], configs: Sequence[Config]) -> None:
        self.have_gpu = any(settings.get(key) for key in _GPU) and any(c.accelerator != "cpu" for c in configs)
        self.threads = settings.get("cpus_per_task")
        for key in ("nodes", "tasks_per_node"):
            if settings[key] != 1:
                raise bad_value(f"hydra.launcher.{key}", settings[key], "a job is one process; use 1")
        folder, most = settings.pop("submitit_folder"), settings.pop("max_num_timeout", None)
        limits = {} if most is None else {f"{self.cluster}_max_num_timeout": most}
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster, **limits)
            names = {key: key if key in _GENERAL else f"{self.cluster}_{key}" for key in settings}
            self.executor.update_parameters(**{names[key]: value for key, value in settings.items()})
        except (NameError, AssertionError, TypeError, ValueError) as error:
            raise UserError(f"hydra.launcher: {one_line(error)}") from error

    def run(self, tasks: Sequence[list[Config]]) -> Iterator[tuple[int, list[Outcome]]]:
        waiting = dict(enumerate(self.executor.map_array(SubmititTask(os.getcwd()), tasks)))
        show(Text(f"submitted {len(tasks)} tasks, logs in {waiting[0].paths.folder.parent}"))
        while waiting:
            for i, job in [(i, job) for i, job in waiting.items() if job.done()]:
                del waiting[i]
                try:
                    yield i, job.result()
                except (UncompletedJobError, FailedJobError):
                    why = f"job {job.job_id} left no result, {job.state.lower()}; log {job.paths.stderr}"
                    yield i, dead_worker(tasks[i], why)
            if waiting:
                time.sleep(POLL_SECONDS)


class SlurmWorkers(SubmititWorkers):
    cluster = "slurm"

    def __init__(self, settings: dict[str, Any], configs: Sequence[Config]) -> None:
        if shutil.which("srun") is None:
            raise UserError("hydra/launcher: SLURM's srun is not here; start the sweep on a machine of the cluster")
        super().__init__(settings, configs)


class LocalWorkers(SubmititWorkers):
    cluster = "local"
