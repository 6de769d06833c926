"""One-to-one matching of two dictionaries' rows: the Hungarian method on signed cosines (Paulo & Belrose, 2501.16615).

Cosines stay signed: with absolute values a mirrored dictionary [U, −U] could not tell u from −u.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saemd.errors import UserError

BLOCK_ROWS = 1024  # rows of the cosine matrix computed at a time


@dataclass(frozen=True)
class Match:
    """Row i of the first dictionary is paired with row `index[i]` of the second; `cosine[i]` is their signed cosine."""

    index: np.ndarray  # int64 [F], a permutation
    cosine: np.ndarray  # float32 [F], in [-1, 1]


def match(a_FD: Tensor | np.ndarray, b_FD: Tensor | np.ndarray) -> Match:
    """The permutation p that maximises Σ_i cos(a_i, b_p(i)) over rows, exactly.

    `a_FD`, `b_FD`: [F, D], any float type, any device; rows need no normalising, and a zero row has cosine 0 with
    everything. Takes one F × F float64 matrix (2.7 GB at F = 18,432), filled in blocks and already negated: scipy
    solves in float64, and would copy a float32 matrix to convert it and once more to maximise. Raises `UserError` on
    NaN or infinite rows, `ValueError` where the shapes differ.
    """
    a_FD, b_FD = _unit_rows(a_FD), _unit_rows(b_FD)
    if a_FD.shape != b_FD.shape:
        raise ValueError(f"dictionaries of one shape can be matched, not {list(a_FD.shape)} and {list(b_FD.shape)}")
    n_latents = len(a_FD)
    cost_FF = np.empty((n_latents, n_latents), dtype=np.float64)
    for start in range(0, n_latents, BLOCK_ROWS):
        cosine_BF = a_FD[start : start + BLOCK_ROWS] @ b_FD.T
        np.negative(cosine_BF.numpy(), out=cost_FF[start : start + BLOCK_ROWS])
    _, index_F = linear_sum_assignment(cost_FF)
    cosine_F = -cost_FF[np.arange(n_latents), index_F]
    return Match(index=index_F.astype(np.int64), cosine=np.clip(cosine_F, -1, 1).astype(np.float32))


def random_floor(n_latents: int, d_in: int, seed: int = 0) -> float:
    """Mean matched cosine of two independent Gaussian dictionaries [n_latents, d_in]: what chance alone gives.

    It is an isotropic floor: SAEs trained on anisotropic activations share directions for that reason too, so the
    true floor of two unrelated SAEs lies at or above it. It grows like sqrt(2 ln F / D); 0.081 at F = 18,432,
    D = 2,304. Costs one matching of independent dictionaries, the slowest kind.
    """
    generator = torch.Generator().manual_seed(seed)
    a_FD, b_FD = (torch.randn(n_latents, d_in, generator=generator) for _ in range(2))
    return float(match(a_FD, b_FD).cosine.mean(dtype=np.float64))


def _unit_rows(rows_FD: Tensor | np.ndarray) -> Tensor:
    """Float32 rows on the CPU, scaled to norm 1 (zero rows stay zero)."""
    rows_FD = torch.as_tensor(rows_FD).detach().to(device="cpu", dtype=torch.float32)
    broken = int((~torch.isfinite(rows_FD)).any(dim=1).sum())
    if broken:
        raise UserError(f"weights: {broken} of {len(rows_FD)} latents are NaN or infinite; train this run again")
    return torch.nn.functional.normalize(rows_FD, dim=1)
