"""`hydra/launcher=joblib`: workers on this machine. Each has one GPU, or its part of the CPU's cores.

A worker is one of loky's executors (the processes behind joblib) with a single process. In a common executor, as
`joblib.Parallel` has it, a killed process takes all others along.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import joblib
import torch
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from saemd.config import Config
from saemd.errors import bad_value
from saemd.launchers import dead_worker
from saemd.launchers.worker import train_task
from saemd.outcomes import Outcome

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # as joblib sets them


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

    def run(self, tasks: Sequence[list[Config]]) -> Iterator[tuple[int, list[Outcome]]]:
        stopped: list[int] = []

        def stop(number: int, _: object) -> None:
            stopped.append(number)
            for process in multiprocessing.active_children():
                process.terminate()  # SIGTERM: it saves `last.ckpt`

        left = [*enumerate(tasks)][::-1]
        workers: dict[int, ProcessPoolExecutor] = {}
        running: dict[Future[Any], tuple[int, int]] = {}  # worker and task
        before = signal.signal(signal.SIGTERM, stop)
        try:
            free = [*range(min(self.count, len(left)))]
            while left or running:
                while free and left and not stopped:
                    worker, (i, task) = free.pop(), left.pop()
                    if worker not in workers:
                        workers[worker] = ProcessPoolExecutor(1, env=self.environment(worker))
                    running[workers[worker].submit(_in_worker, task, os.getcwd())] = worker, i
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    worker, i = running.pop(future)
                    free.append(worker)
                    try:
                        yield i, future.result() or dead_worker(tasks[i], "stopped by a signal")
                    except TerminatedWorkerError:
                        del workers[worker]
                        why = "stopped by a signal" if stopped else "killed, perhaps for lack of memory"
                        yield i, dead_worker(tasks[i], why)
        finally:
            signal.signal(signal.SIGTERM, before)
            for executor in workers.values():
                executor.shutdown(kill_workers=True)  # frees their memory, also on the GPU
        if stopped:
            raise KeyboardInterrupt

    def environment(self, worker: int) -> dict[str, str]:
        """The variables of a worker's process, which are set before torch looks for GPUs."""
        threads = {name: str(self.threads) for name in _THREADS if name not in os.environ}
        if not self.devices or self.count == 1:
            return threads
        return {**threads, "CUDA_VISIBLE_DEVICES": self.devices[worker % len(self.devices)]}


def visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them. They are counted without a CUDA context."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def _in_worker(task: list[Config], folder: str) -> list[Outcome] | None:
    """`train_task`; None where SIGTERM stopped it."""
    try:
        return train_task(task, folder)
    except KeyboardInterrupt:
        return None
