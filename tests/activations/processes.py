"""Processes that write one cache of made-up contexts together."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from saemd.activations.disk.manifest import SPLITS
from saemd.activations.harvest.write import joined
from tests.activations.caches import CONFIG, contexts, forward, origin, write_cache

Activations = Callable[[torch.Tensor], torch.Tensor]
# One process imports torch; each test's processes are forked from it.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([__name__])


def uneven(ids_BT: torch.Tensor) -> torch.Tensor:
    """`forward` with values of many sizes, so that sums of another order have other bits. Some groups lose all tokens.

    Groups of 32 contexts of 16 tokens: all activations of the fourth one are outliers.
    """
    acts_BTD = forward(ids_BT) * torch.logspace(-12, 0, 8, base=2)
    acts_BTD[..., 0] *= 1 + (ids_BT % 7) * 2.0**-9
    return torch.where((ids_BT // 512 == 3)[..., None], acts_BTD + 1e5, acts_BTD)


class Model:
    """A language model that takes its time. It counts its batches, and says in `begun` when its first one runs."""

    def __init__(
        self, seconds: float, begun: Path | None = None, stuck: bool = False, activations: Activations = uneven
    ) -> None:
        self.seconds, self.begun, self.stuck, self.calls = seconds, begun, stuck, 0
        self.activations, self.random = activations, random.Random(os.getpid())

    def __call__(self, ids_BT: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.begun is not None:
            self.begun.touch()
        time.sleep(60 if self.stuck else self.random.uniform(0, 2 * self.seconds))
        return self.activations(ids_BT)


def write(folder: Path, model: Activations, n_contexts: int = 500) -> None:
    torch.set_num_threads(1)
    sources = {split: partial(contexts, split, n_contexts) for split in SPLITS}
    with joined(folder, lambda: None):
        write_cache(folder, origin(), CONFIG, sources, model, "float32")  # type: ignore[arg-type]


def _run(folder: Path, model: Model, n_contexts: int, calls: Path) -> None:
    write(folder, model, n_contexts)
    calls.write_text(str(model.calls))


class Writer:
    """A process that joins in writing the cache in `folder`."""

    def __init__(
        self,
        folder: Path,
        seconds: float = 0.002,
        stuck: bool = False,
        activations: Activations = uneven,
        n_contexts: int = 500,
    ) -> None:
        name = f"{folder.name}-{random.getrandbits(32):08x}"
        self._begun, self._calls = folder.with_name(f"{name}.begun"), folder.with_name(f"{name}.calls")
        arguments = (folder, Model(seconds, self._begun, stuck, activations), n_contexts, self._calls)
        self.process = context.Process(target=_run, args=arguments, daemon=True)
        self.process.start()

    def wait_until_begun(self) -> None:
        deadline = time.monotonic() + 30
        while not self._begun.exists():
            assert self.process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def batches(self) -> int:
        """Wait for its end. Returns how many batches it ran."""
        self.process.join(30)
        assert self.process.exitcode == 0
        return int(self._calls.read_text())
