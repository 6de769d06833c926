"""The jobs of a sweep in worker processes: on this machine, on a SLURM cluster, or on a Ray cluster.

`hydra/launcher` chooses the workers and has their settings. Those of joblib and SLURM are configured by Hydra's plugins
(hydra-joblib-launcher, hydra-submitit-launcher), but not started by them: a plugin starts single jobs, answers when
the last one has ended, and leaves the others alone when a worker dies. A worker's task here is one job or, with
`together`, one stack of jobs. Any other launcher of Hydra starts single jobs by itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from saemd.cli import EXTRAS
from saemd.composition import is_sweep, launcher_of
from saemd.config import Config
from saemd.errors import UserError, bad_value
from saemd.outcomes import Outcome
from saemd.runs import run_dir


class Workers(Protocol):
    """Processes that train the jobs of a sweep, made of a launcher's settings and the jobs when these are checked.

    Making them raises `UserError` for settings that they cannot use.
    """

    count: int | None  # at the same time; None: as many as the cluster gives
    have_gpu: bool
    threads: int | None  # CPU threads of a job; None: all cores of the worker's machine

    def run(self, tasks: Sequence[list[Config]]) -> Iterator[tuple[int, list[Outcome]]]:
        """The outcomes of each task's jobs with the task's index, as they arrive. A dead worker is an outcome too."""
        ...


@dataclass(frozen=True)
class Launcher:
    """A launcher that a sweep asks for, with the settings of its YAML."""

    workers: str  # module and class
    is_remote: bool  # the workers may be on other machines, whose GPU and memory are not those of this one
    settings: dict[str, Any]  # of the YAML, without `_target_`


# `_target_` of each launcher's YAML: module and class of its workers, and whether they may be on other machines.
_KINDS = {
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": ("by_joblib.JoblibWorkers", False),
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": ("by_submitit.LocalWorkers", False),
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": ("by_submitit.SlurmWorkers", True),
    "saemd.launchers.by_ray.RayWorkers": ("by_ray.RayWorkers", True),
}


def find_launcher(arguments: list[str], configs: Sequence[Config]) -> Launcher | None:
    """The launcher that a command line asks for; None where Hydra starts the jobs. Raises `UserError`."""
    if not is_sweep(arguments):
        for word in arguments:
            if word.startswith("hydra/launcher="):
                raise UserError(f"{word}: starts the jobs of a sweep; add -m")
        return None
    name, settings = launcher_of(arguments)
    target = settings.pop("_target_")
    if target not in _KINDS:
        if name != "basic" and any(config.together != 1 for config in configs):
            remedy = "starts jobs one by one, together trains several as one; leave one of them out"
            raise bad_value("hydra/launcher", name, remedy)
        return None
    workers, is_remote = _KINDS[target]
    if workers.startswith("by_ray") and find_spec("ray") is None:
        raise bad_value("hydra/launcher", name, f"is not installed; {EXTRAS['ray']}")
    return Launcher(workers, is_remote, settings)


def launch(launcher: Launcher, configs: Sequence[Config]) -> Iterator[tuple[list[Config], list[Outcome]]]:
    """Train unfinished jobs in workers: tasks and the outcomes of their jobs, as they arrive."""
    module, _, name = launcher.workers.rpartition(".")
    workers: Workers = getattr(import_module(f"saemd.launchers.{module}"), name)(launcher.settings, configs)
    tasks = divide(configs, workers)
    for index, outcomes in workers.run(tasks):
        yield tasks[index], outcomes


def divide(configs: Sequence[Config], workers: Workers) -> list[list[Config]]:
    """The jobs of each task: single ones, or stacks of at most `together`.

    `together=auto` gives each worker with a GPU an equal share of the jobs, which the worker splits into stacks that
    fit its memory. On a CPU it is one job a task.
    """
    from saemd.training.checkpoints import step_of
    from saemd.training.stack.grouping import stack_size, stacks

    share = math.ceil(len(configs) / (workers.count or 1)) if workers.have_gpu else 1
    sized = []
    for config in configs:
        if config.together not in (1, "auto") and not workers.have_gpu and workers.count:
            stack_size(config)  # refuses here what would not fit into this machine's memory
        size = share if config.together == "auto" else config.together
        sized.append(dataclasses.replace(config, together=size, threads=config.threads or workers.threads))
    automatic = {run_dir(config) for config in configs if config.together == "auto"}
    return [
        [dataclasses.replace(config, together="auto") if run_dir(config) in automatic else config for config in stack]
        for stack in stacks(sized, lambda config: step_of(run_dir(config)))
    ]


def dead_worker(task: Sequence[Config], reason: str) -> list[Outcome]:
    """The outcomes of a task whose worker ended without any."""
    return [Outcome(None, f"its worker ended ({reason}); the same command goes on from the last checkpoint")] * len(
        task
    )
