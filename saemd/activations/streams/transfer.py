"""Copies batches to a GPU while the step before them runs, by threads, from pinned memory, in a CUDA stream of its own.

They travel in bfloat16, as they are stored, and are widened and scaled there: the same numbers as on a CPU. Without
pinned memory a batch would be copied between two steps, and the thread that starts the kernels would wait.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Sent(NamedTuple):
    """A batch that is being copied."""

    x: Tensor  # [B, D] on the device; not to be used before `arrived`
    done: torch.cuda.Event


def sender(device: torch.device, factor: float) -> Callable[[Tensor], Tensor | Sent]:
    """A function that starts to copy a batch of bfloat16 to a GPU, as float32 times `factor`.

    Several threads may call it at once. Of a batch that is on the GPU already it only makes float32.
    """
    stream = torch.cuda.Stream(device)

    def send(x_BD: Tensor) -> Tensor | Sent:
        if x_BD.is_cuda:
            return scaled(x_BD, factor)
        done = torch.cuda.Event()
        with torch.cuda.stream(stream):
            sent = Sent(scaled(x_BD.pin_memory().to(device, non_blocking=True), factor), done)
            done.record(stream)
        return sent

    return send


def scaled(x: Tensor, factor: float) -> Tensor:
    """float32 of bfloat16, times `factor`, in one pass."""
    return x * torch.full((1,), factor, dtype=torch.float32, device=x.device)


def arrived(batch: Tensor | Sent) -> Tensor:
    """The batch, ready for what the current CUDA stream does next: the GPU waits for the copy, this thread does not."""
    if isinstance(batch, Tensor):
        return batch
    current = torch.cuda.current_stream(batch.x.device)
    current.wait_event(batch.done)
    batch.x.record_stream(current)  # its memory is not reused before what uses it has run
    return batch.x
