"""The batch of a step, of which a device may hold a part: what a loss takes of the whole batch comes from here.

Devices divide each batch into equal parts, and their gradients are averaged. So a loss that is a mean over tokens needs
nothing from here. What is no such mean, as (L0 / target − 1)², a threshold or a count of tokens, must be that of the
whole batch. Shape suffixes: B tokens in a device's part, F latents. A stack's tensors have one axis more in front.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from saemd.sae.rounded import rows


class Batch:
    """The batch of one device, which holds all of it."""

    devices, rank = 1, 0

    def size(self, rows: int) -> int:
        """Tokens of the batch, of which each device has `rows`."""
        return rows * self.devices

    def mean(self, part: Tensor) -> Tensor:
        """The mean over the batch, where `part` is that over this device's tokens. Its gradient is that of `part`."""
        return part

    def sum(self, part: Tensor) -> Tensor:
        """The sum of what each device has counted."""
        return part

    def joined(self, part_B: Tensor) -> Tensor:
        """One value for each token of the batch, of which `part_B` are those of this device's."""
        return part_B

    def any(self, part_F: Tensor) -> Tensor:
        """Whether it is true on any device."""
        return part_F

    def least(self, part: Tensor) -> Tensor:
        return part

    def largest(self, values_BF: Tensor, count: Any) -> Tensor | None:
        """The value of the `count`-th largest entry of the batch, [] or [S]; None: one device needs no such value."""
        return None

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each parameter's gradient by its mean over the devices."""


WHOLE = Batch()


class SharedBatch(Batch):
    """A batch that all processes of torch's default process group share. Each call waits for all of them."""

    def __init__(self) -> None:
        self.devices, self.rank = dist.get_world_size(), dist.get_rank()

    def mean(self, part: Tensor) -> Tensor:
        return _Mean.apply(part, self)  # type: ignore[return-value]

    def sum(self, part: Tensor) -> Tensor:
        return _reduced(part, dist.ReduceOp.SUM)

    def joined(self, part_B: Tensor) -> Tensor:
        return torch.cat(self._gathered(part_B.detach().contiguous()))

    def any(self, part_F: Tensor) -> Tensor:
        return _reduced(part_F.to(torch.uint8), dist.ReduceOp.MAX).bool()

    def least(self, part: Tensor) -> Tensor:
        return _reduced(part, dist.ReduceOp.MIN)

    @torch.no_grad()
    def largest(self, values_BF: Tensor, count: Any) -> Tensor:
        """Each device sends its own largest entries, `count` at most: 4 bytes each."""
        values_N = values_BF.detach().flatten(-2)
        most = int(count.max()) if isinstance(count, Tensor) else int(count)
        own = values_N.topk(min(most, values_N.shape[-1]), sorted=False).values.contiguous()
        descending = torch.cat(self._gathered(own), dim=-1).topk(most).values
        place = torch.as_tensor(count, device=own.device).long().expand(own.shape[:-1]).unsqueeze(-1) - 1
        return descending.gather(-1, place).squeeze(-1)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(rows(parameter.grad))
                parameter.grad /= self.devices

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every device the first one's values of these tensors."""
        for tensor in tensors:
            dist.broadcast(rows(tensor), src=0)

    def _gathered(self, own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(self.devices)]
        dist.all_gather(parts, own)
        return parts


class _Mean(torch.autograd.Function):
    """With equal parts, averaged gradients and the same derivative by the mean on every device, this is exact."""

    @staticmethod
    def forward(ctx, part: Tensor, batch: SharedBatch) -> Tensor:  # type: ignore[override]
        return batch.sum(part) / batch.devices

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        return grad, None


def _reduced(part: Tensor, operation: Any) -> Tensor:
    whole = part.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(whole, operation)
    return whole
