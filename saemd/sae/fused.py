"""Element-wise passes and sums over large tensors as few kernels on a GPU, through torch.compile."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

COMPILED_ON = {"cuda"}  # kinds of device
SHAPES = 64  # variants kept of one function: shapes and flags, of all SAEs that one process trains


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, compiled at its first call with a first argument on a GPU; elsewhere it runs as it stands.

    Numbers that change from call to call, or from run to run, come as tensors without dimensions (`scalar`): every
    new Python number would be compiled anew.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        assert isinstance(first, Tensor)
        kernel = _compiled(function) if first.device.type in COMPILED_ON else function
        return kernel(*args, **kwargs)

    return call


@functools.cache
def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    import torch._dynamo.config as limits  # takes seconds to import

    limits.recompile_limit = max(limits.recompile_limit, SHAPES)
    return torch.compile(function, dynamic=False)


def scalar(value: float | Tensor, like: Tensor) -> Tensor:
    """`value` as a float32 tensor without dimensions, made where `like` is: nothing is copied, nobody waits.

    A tensor, as a stack has it, stays as it is.
    """
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=torch.float32, device=like.device)
