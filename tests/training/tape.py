"""What a CUDA graph does, on a CPU: a step's operations are recorded, and repeated in the memory of the first time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)  # for the GPU


class Recording(TorchDispatchMode):
    """Every operation, with the tensors it was given. Numbers stay as they were, as in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket not in WAITS, f"{func} waits for the GPU, which a recording refuses"
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, tensors(result)))
        return result

    def replay(self) -> None:
        for func, args, kwargs, results in self.calls:
            for kept, again in zip(results, tensors(func(*args, **kwargs)), strict=True):
                if again.data_ptr() != kept.data_ptr():
                    kept.copy_(again)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def record(step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """In the place of `saemd.training.stack.captured.cuda_graph`."""
    with Recording() as recording:
        result = step()
    return torch.no_grad()(recording.replay), result
