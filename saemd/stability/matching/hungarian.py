"""One-to-one matching of two dictionaries' rows: the Hungarian method on signed cosines (Paulo & Belrose, 2501.16615).

Cosines stay signed: with absolute values a mirrored dictionary [U, −U] could not tell u from −u.
"""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saemd.errors import UserError, bad_value
from saemd.stability.matching.certificate import NotProvenError
from saemd.stability.matching.cosines import Cosines, Dictionary
from saemd.stability.matching.kernels import candidates_of, fastest_first
from saemd.stability.matching.optimum import optimum

KEPT = 192  # largest cosines kept of every row and every column, for the proof


@dataclass(frozen=True)
class Match:
    """Row i of the first dictionary is paired with row `index[i]` of the second; `cosine[i]` is their signed cosine."""

    index: np.ndarray  # int64 [F], each at most once: a permutation where the second has as many rows
    cosine: np.ndarray  # float32 [F], in [-1, 1]


def match(a_FD: Tensor | np.ndarray, b_FD: Tensor | np.ndarray, device: torch.device | str | None = None) -> Match:
    """The permutation p that maximises Σ_i cos(a_i, b_p(i)) over rows, exactly, and proven so by a dual certificate.

    `a_FD`, `b_FD`: [F, D], any float type, any device; rows need no normalising, and a zero row has cosine 0 with
    everything. The cosines, or upper bounds of them, are computed in blocks on `device` (None: on a GPU if there is one
    with memory to spare, else on the CPU), and the largest of each row and column are kept. The matching is computed on
    these few and proven on all pairs; pairs that break the proof join the few, and the next round starts from there. If
    no round succeeds, `match_reference` answers, with a warning. Beside the dictionaries it takes 0.3 GB at F = 18,432,
    D = 2,304: both once more in bytes, the lists, and a block. Where b has more rows, each row of a gets one of them,
    and `match_reference` computes this: see there for the memory. Raises `UserError` on NaN or infinite rows, and
    `ValueError` where the widths differ, or a has more rows.
    """
    if len(a_FD) < len(b_FD):
        return match_reference(a_FD, b_FD)
    a, b = rows_of_one_shape(a_FD, b_FD)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for cosines in fastest_first(a, b, pool, None if device is None else torch.device(device)):
            try:
                assignment = optimum(candidates_of(cosines, KEPT, pool), cosines)
                return _match(assignment.index, assignment.value)
            except NotProvenError as error:
                unproven = error
    warnings.warn(f"matching: {unproven}; scipy solves this one, slowly", stacklevel=2)
    return match_reference(a_FD, b_FD)


def match_reference(a_FD: Tensor | np.ndarray, b_FD: Tensor | np.ndarray) -> Match:
    """`match` by scipy: the plain reference, slow (minutes at F = 18,432).

    Takes one F × F float64 matrix (2.7 GB at F = 18,432), filled in blocks and already negated: scipy solves in
    float64, and would copy a float32 matrix to convert it and once more to maximise. Unequal numbers of rows cost less.
    """
    check_memory(len(a_FD), len(b_FD))
    a, b = rows_of_one_shape(a_FD, b_FD)
    cost_FF = np.empty((len(a_FD), len(b_FD)), dtype=np.float64)
    first = 0
    with ThreadPoolExecutor(1) as pool:
        for cosine_BF in Cosines(a, b, pool).blocks():
            np.negative(cosine_BF, out=cost_FF[first : first + len(cosine_BF)])
            first += len(cosine_BF)
    row_F, index_F = linear_sum_assignment(cost_FF)
    return _match(index_F, -cost_FF[row_F, index_F])


def check_memory(n_latents: int, n_others: int) -> None:
    """Raise `UserError` where the matrix that `match_reference` fills is larger than this machine's memory."""
    needed, available = 8 * n_latents * n_others, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * available:
        remedy = f"matching them takes {needed / 1e9:.0f} GB of memory, and here are {available / 1e9:.0f} GB"
        raise bad_value("d_sae", f"{n_latents} and {n_others}", f"{remedy}; compare SAEs of one size, or smaller ones")


def random_floor(n_latents: int, d_in: int, seed: int = 0, n_others: int | None = None) -> float:
    """Mean matched cosine of two independent Gaussian dictionaries [n_latents, d_in]: what chance alone gives.

    `n_others`: the rows of the second, where it has more.

    It is an isotropic floor: SAEs trained on anisotropic activations share directions for that reason too, so the
    true floor of two unrelated SAEs lies at or above it. It grows like sqrt(2 ln F / D); 0.081 at F = 18,432,
    D = 2,304. Costs one matching of independent dictionaries.
    """
    generator = torch.Generator().manual_seed(seed)
    a_FD, b_FD = (torch.randn(n, d_in, generator=generator) for n in (n_latents, n_others or n_latents))
    return float(match(a_FD, b_FD).cosine.mean(dtype=np.float64))


def _match(index_F: np.ndarray, cosine_F: np.ndarray) -> Match:
    return Match(index=index_F.astype(np.int64), cosine=np.clip(cosine_F, -1, 1).astype(np.float32))


def rows_of_one_shape(a_FD: Tensor | np.ndarray, b_FD: Tensor | np.ndarray) -> tuple[Dictionary, Dictionary]:
    if a_FD.shape[1:] != b_FD.shape[1:] or len(a_FD) > len(b_FD):
        raise ValueError(f"dictionaries of one shape can be matched, not {list(a_FD.shape)} and {list(b_FD.shape)}")
    return _rows(a_FD), _rows(b_FD)


def _rows(rows_FD: Tensor | np.ndarray) -> Dictionary:
    """Float32 rows on the CPU and the inverse of their norms (0 for zero rows)."""
    rows_FD = torch.as_tensor(rows_FD).detach().to(device="cpu", dtype=torch.float32).contiguous()
    norm_F = rows_FD.norm(dim=1)
    odd_F = (norm_F < 1e-15) | ~(norm_F < 1e15)
    if rows_FD[odd_F].any():
        broken = int((~torch.isfinite(rows_FD[odd_F])).any(dim=1).sum())
        if broken:
            raise UserError(f"weights: {broken} of {len(rows_FD)} latents are NaN or infinite; train this run again")
        double_ND = rows_FD[odd_F].double()  # float32 does not hold their squares
        rows_FD = rows_FD.clone()
        rows_FD[odd_F] = (double_ND / double_ND.norm(dim=1, keepdim=True).clamp(min=1e-300)).float()
        norm_F = rows_FD.norm(dim=1)
    return Dictionary(rows_FD, torch.where(norm_F > 0, 1 / norm_F, 0))
