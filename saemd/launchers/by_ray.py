"""`hydra/launcher=ray`: workers on a Ray cluster, or on this machine. Ray gives each its GPU and cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from saemd.cli import one_line
from saemd.config import Config
from saemd.errors import UserError
from saemd.launchers import dead_worker
from saemd.launchers.worker import train_task
from saemd.outcomes import Outcome


class RayWorkers:
    def __init__(self, settings: dict[str, Any], configs: Sequence[Config]) -> None:
        try:
            ray.init(**settings["ray"]["init"])
        except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"hydra.launcher.ray.init: {one_line(error)}") from error
        self.options = {key: value for key, value in settings["ray"]["remote"].items() if value is not None}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpu = [] if all(config.accelerator == "cpu" for config in configs) else [n for n in nodes if n.get("GPU")]
        self.options.setdefault("num_gpus", 1 if with_gpu else 0)
        self.have_gpu = self.options["num_gpus"] > 0
        places = with_gpu if self.have_gpu else nodes
        name = "GPU" if self.have_gpu else "CPU"
        self.count = min(len(configs), max(1, int(sum(node.get(name, 0) for node in places))))
        if "num_cpus" not in self.options:
            cores = [int(node.get("CPU", 0)) for node in places]
            self.options["num_cpus"] = max(1, min(sum(cores) // self.count, min(cores, default=1)))
        self.threads = max(1, int(self.options["num_cpus"]))

    def run(self, tasks: Sequence[list[Config]]) -> Iterator[tuple[int, list[Outcome]]]:
        remote = ray.remote(**self.options)(train_task)
        try:
            waiting = {remote.remote(task, os.getcwd()): i for i, task in enumerate(tasks)}
            while waiting:
                (done,), _ = ray.wait([*waiting], num_returns=1)
                i = waiting.pop(done)
                try:
                    yield i, ray.get(done)
                except RayError as error:
                    yield i, dead_worker(tasks[i], one_line(error))
        finally:
            ray.shutdown()
