"""Several threads that run one language model at the same time, each on its own batch.

The threads of one product wait for the slowest after every operation: beside other processes longer than they work.
Workers with one thread each never wait for each other.
"""

from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain

import torch
from torch import nn

_MOST = 16  # each holds the states of one batch: 0.2 GB at Gemma-2-2B's size


def worker_count(device: str) -> int:
    """A CPU has one worker for each of torch's threads, 16 at most; a GPU has one."""
    return 1 if torch.device(device).type == "cuda" else min(torch.get_num_threads(), _MOST)


@contextmanager
def divided_threads(device: str) -> Generator[int]:
    """In the block, divide torch's threads among the workers: threads that begin in the block. Gives their number."""
    threads, workers = torch.get_num_threads(), worker_count(device)
    torch.set_num_threads(threads // workers)
    try:
        yield workers
    finally:
        torch.set_num_threads(threads)


def sharing_weights(model: nn.Module) -> nn.Module:
    """A copy of the modules with the same tensors, for one worker: a hook on it does not see another worker's pass."""
    return deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})
