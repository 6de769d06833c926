"""Batches onto a GPU while the step before them runs: by a thread, out of pinned memory, in a CUDA stream of their own.

Batches of pageable memory would be copied between two steps, and the thread that starts the kernels would wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Sent(NamedTuple):
    """A batch on its way."""

    x: Tensor  # [B, D] on the device; not to be touched before `arrived`
    done: torch.cuda.Event


def send(batches: Iterator[Tensor], device: torch.device) -> Iterator[Sent]:
    """Each batch of CPU memory, set off when it is asked for; its memory may be overwritten from then on."""
    stream = torch.cuda.Stream(device)
    for x_BD in batches:
        done = torch.cuda.Event()
        with torch.cuda.stream(stream):
            sent = Sent(x_BD.pin_memory().to(device, non_blocking=True), done)
            done.record(stream)
        yield sent


def arrived(batch: Tensor | Sent) -> Tensor:
    """The batch, for whatever the current stream does next: the GPU waits for the copy, this thread does not."""
    if isinstance(batch, Tensor):
        return batch
    current = torch.cuda.current_stream(batch.x.device)
    current.wait_event(batch.done)
    batch.x.record_stream(current)  # its memory is not given away before what uses it has run
    return batch.x
