"""Pairs of dictionaries that are hard to match, each in its own way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from saemd.stability.matching import hungarian, optimum
from saemd.stability.matching.byte_cosines import ByteCosines
from saemd.stability.matching.candidates import Candidates
from saemd.stability.matching.certificate import Assignment
from saemd.stability.matching.cosines import Cosines
from saemd.stability.matching.device_cosines import DeviceCosines
from saemd.stability.matching.kernels import candidates_of
from tests.stability_fakes import rows

KERNELS = [Cosines, ByteCosines, DeviceCosines]  # the last one on the CPU here, by the same code as on a GPU


def shared_rows(n: int, share: float, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`share` of the rows return under noise in another order, the others are independent."""
    a_FD, b_FD = rows(0, n, 32), rows(1, n, 32)
    shared = round(share * n)
    b_FD[:shared] = a_FD[:shared] + noise * b_FD[:shared]
    return a_FD, b_FD[torch.randperm(n, generator=torch.Generator().manual_seed(2))]


def strong_axes(a_FD: torch.Tensor, b_FD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """These dictionaries with axis k multiplied by k^-0.5: a few axes are strong, as in activations."""
    axes_D = torch.arange(1, a_FD.shape[1] + 1) ** -0.5
    return a_FD * axes_D, b_FD * axes_D


def with_zeros(rows_FD: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    rows_FD[start:stop] = 0
    return rows_FD


def crowded(seed: int, n: int) -> torch.Tensor:
    """Few directions: what is best for a row is best for many."""
    return rows(seed, n, 4) @ rows(7, 4, 32) + 0.3 * rows(8, 1, 32)


INPUTS: dict[str, Callable[[int], tuple[torch.Tensor, torch.Tensor]]] = {
    "near-identical": lambda n: shared_rows(n, 1, 0.1),
    "half": lambda n: shared_rows(n, 0.55, 0.8),
    "independent": lambda n: shared_rows(n, 0, 0),
    "near-identical, strong axes": lambda n: strong_axes(*shared_rows(n, 1, 0.1)),
    "half, strong axes": lambda n: strong_axes(*shared_rows(n, 0.55, 0.8)),
    "independent, strong axes": lambda n: strong_axes(*shared_rows(n, 0, 0)),
    "crowded": lambda n: (crowded(0, n), crowded(1, n)),
    "opposed": lambda n: (rows(0, n) + rows(9, 1), rows(1, n) - rows(9, 1)),
    "duplicates": lambda n: (rows(0, max(n // 8, 1)).repeat(9, 1)[:n], rows(1, max(n // 8, 1)).repeat(9, 1)[:n]),
    "one row": lambda n: (rows(0, 1).repeat(n, 1), rows(0, 1).repeat(n, 1)),
    "ties": lambda n: (rows(0, n, 6).sign(), rows(1, n, 6).sign()),
    "zero rows in one": lambda n: (with_zeros(rows(0, n), 0, n // 4), rows(1, n)),
    "zero rows in both": lambda n: (with_zeros(rows(0, n), 0, n // 4), with_zeros(rows(1, n), n // 2, n)),
    "only zeros": lambda n: (torch.zeros(n, 4), rows(1, n, 4)),
    "mirrored": lambda n: (torch.cat([rows(0, n), -rows(0, n)])[:n], torch.cat([rows(0, n), -rows(0, n)]).flip(0)[:n]),
}


def solved(
    a_FD: torch.Tensor, b_FD: torch.Tensor, kernel: type[Cosines], pool: ThreadPoolExecutor
) -> tuple[Assignment, Candidates, Cosines, np.ndarray]:
    """The assignment that `match` finds, what it is made from, and the whole matrix."""
    cosines = kernel(*hungarian.rows_of_one_shape(a_FD, b_FD), pool)
    candidates = candidates_of(cosines, hungarian.KEPT, pool)
    return optimum.optimum(candidates, cosines), candidates, cosines, whole(a_FD, b_FD)


def whole(a_FD: torch.Tensor, b_FD: torch.Tensor) -> np.ndarray:
    a_FD, b_FD = (torch.nn.functional.normalize(rows_FD, dim=1) for rows_FD in (a_FD, b_FD))
    return (a_FD @ b_FD.T).numpy()
