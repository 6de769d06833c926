"""`hydra/launcher=joblib`: workers on this machine. Each has one GPU, or its part of the CPU's cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import joblib
import torch
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from saemd.config import Config
from saemd.errors import bad_value
from saemd.launchers import dead_worker
from saemd.launchers.worker import train_task
from saemd.locks import locked
from saemd.outcomes import Outcome

_KEYS = ("verbose", "timeout", "pre_dispatch", "temp_folder")  # of joblib.Parallel; the others do not suit long jobs
_held = ExitStack()  # in a worker: the lock of its place, until the process ends
_state = {"is_stopped": False}  # in a worker, after SIGTERM: it starts no other task


class JoblibWorkers:
    def __init__(self, settings: dict[str, Any], configs: Sequence[Config]) -> None:
        asked = settings["n_jobs"]
        if asked == 0:
            raise bad_value("hydra.launcher.n_jobs", asked, "use a number of workers, or -1 for all GPUs or cores")
        self.devices = [] if all(config.accelerator == "cpu" for config in configs) else visible_gpus()
        self.have_gpu = bool(self.devices)
        most = len(self.devices) or joblib.cpu_count()
        self.count = min(asked if asked > 0 else max(1, most + 1 + asked), len(configs))
        self.threads = max(1, joblib.cpu_count() // self.count)
        self.settings = {key: settings[key] for key in _KEYS if settings[key] is not None}

    def run(self, tasks: Sequence[list[Config]]) -> Iterator[tuple[int, list[Outcome]]]:
        left, was_stopped = {*range(len(tasks))}, []

        def stop(*_: object) -> None:
            was_stopped.append(True)
            for worker in multiprocessing.active_children():
                worker.terminate()  # SIGTERM: it saves `last.ckpt`

        before = signal.signal(signal.SIGTERM, stop)
        try:
            with TemporaryDirectory(prefix="saemd-workers-") as places:
                parallel = joblib.Parallel(self.count, backend="loky", return_as="generator_unordered", **self.settings)
                calls = (
                    joblib.delayed(_in_worker)(i, task, os.getcwd(), places, self.count, self.devices)
                    for i, task in enumerate(tasks)
                )
                try:
                    results: Any = parallel(calls)
                    for i, outcomes in results:
                        left.remove(i)
                        yield i, outcomes
                except TerminatedWorkerError:  # takes the other workers along
                    for i in sorted(left):
                        yield i, dead_worker(tasks[i], "a worker was killed, perhaps for lack of memory")
                if self.count > 1:
                    get_reusable_executor().shutdown(kill_workers=True)  # frees their memory, also on the GPU
        finally:
            signal.signal(signal.SIGTERM, before)
        if was_stopped or _state["is_stopped"]:  # the latter where one worker is this process
            raise KeyboardInterrupt


def visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them. They are counted without a CUDA context."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def _in_worker(
    i: int, task: list[Config], folder: str, places: str, count: int, devices: list[str]
) -> tuple[int, list[Outcome]]:
    take_device(Path(places), count, devices)
    if not _state["is_stopped"]:
        try:
            return i, train_task(task, folder)
        except KeyboardInterrupt:
            _state["is_stopped"] = True
    return i, dead_worker(task, "stopped by a signal")


def take_device(places: Path, count: int, devices: Sequence[str]) -> None:
    """Give this process one of the GPUs, before torch sees any: that of the first place of `count` that is free.

    The lock file of a place is held until the process ends, also where it is killed.
    """
    if not devices or count == 1 or os.environ.get("SAEMD_WORKERS") == str(places):
        return
    for place in range(count):
        try:
            _held.enter_context(locked(places / str(place), taken=_raise_taken))
        except BlockingIOError:
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
        os.environ["SAEMD_WORKERS"] = str(places)
        return
    raise AssertionError(f"{count} places for more workers")


def _raise_taken() -> None:
    raise BlockingIOError
