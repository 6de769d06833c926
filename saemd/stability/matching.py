"""One-to-one matching of two dictionaries' rows: the Hungarian method on signed cosines (Paulo & Belrose, 2501.16615).

Cosines stay signed: with absolute values a mirrored dictionary [U, −U] could not tell u from −u.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saemd.errors import UserError
from saemd.stability.assignment import FREE, augment, bid, compress, free_losing, gains
from saemd.stability.candidates import Candidates, Edges, gather
from saemd.stability.certificate import NEAR, Assignment, NotProvenError, Pricing, gap, known
from saemd.stability.cosines import Cosines, Dictionary, FloatCosines, fastest_first

KEPT = 192  # largest cosines kept of every row and every column, for the proof
CORE = 32  # of these, for the first matching
EPSILONS = (0.02, 0.004, 0.0008, 0.00016, 0.000032, 0.0000064, 0.0)  # cosine by which bids of the auction rise
BIDS = 8  # per latent and step of the auction at most; what is left is for the shortest paths
ROUNDS = 50
FAR = 0.1  # cosine below the largest of its row or column at which a pair need not be known to begin with


@dataclass(frozen=True)
class Match:
    """Row i of the first dictionary is paired with row `index[i]` of the second; `cosine[i]` is their signed cosine."""

    index: np.ndarray  # int64 [F], a permutation
    cosine: np.ndarray  # float32 [F], in [-1, 1]


def match(a_FD: Tensor | np.ndarray, b_FD: Tensor | np.ndarray) -> Match:
    """The permutation p that maximises Σ_i cos(a_i, b_p(i)) over rows, exactly, and proven so by a dual certificate.

    `a_FD`, `b_FD`: [F, D], any float type, any device; rows need no normalising, and a zero row has cosine 0 with
    everything. The cosines, or upper bounds of them, are computed in blocks, of which the largest of each row and
    column are kept: the matching is found on these few and proven on all (see `certificate`, `cosines`); where the
    proof fails, the pairs that break it join and it goes on from there. Should that not end in `ROUNDS`,
    `match_reference` answers, with a warning. Beside the dictionaries it takes 0.3 GB at F = 18,432, D = 2,304: both
    once more in bytes, the lists, and a block. Raises `UserError` on NaN or infinite rows, `ValueError` where the
    shapes differ.
    """
    a, b = _rows_of_one_shape(a_FD, b_FD)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for cosines in fastest_first(a, b, pool):
            try:
                found = optimum(gather(cosines.blocks(), len(a_FD), KEPT, pool), cosines)
                return _match(found.index, found.value)
            except NotProvenError as error:
                unproven = error
    warnings.warn(f"matching: {unproven}; scipy solves this one, slowly", stacklevel=2)
    return match_reference(a_FD, b_FD)


def match_reference(a_FD: Tensor | np.ndarray, b_FD: Tensor | np.ndarray) -> Match:
    """`match` by scipy: slow (minutes at F = 18,432), but without an idea of our own.

    Takes one F × F float64 matrix (2.7 GB at F = 18,432), filled in blocks and already negated: scipy solves in
    float64, and would copy a float32 matrix to convert it and once more to maximise.
    """
    a, b = _rows_of_one_shape(a_FD, b_FD)
    cost_FF = np.empty((len(a_FD), len(a_FD)), dtype=np.float64)
    first = 0
    with ThreadPoolExecutor(1) as pool:
        for cosine_BF in FloatCosines(a, b, pool).blocks():
            np.negative(cosine_BF, out=cost_FF[first : first + len(cosine_BF)])
            first += len(cosine_BF)
    row_F, index_F = linear_sum_assignment(cost_FF)
    return _match(index_F, -cost_FF[row_F, index_F])


def optimum(candidates: Candidates, cosines: Cosines) -> Assignment:
    """The best matching of the whole matrix, with its certificate checked; `NotProvenError` after `ROUNDS` of pricing.

    Starts on each line's `CORE` largest and the diagonal, which makes a perfect matching possible.
    """
    n_latents = len(candidates.diagonal)
    price_F = np.zeros(n_latents)
    column_of_F, row_of_F = (np.full(n_latents, FREE, dtype=np.int64) for _ in range(2))
    edges, bounds = _first_edges(candidates, cosines)
    pricing = Pricing(candidates, cosines)
    epsilons = EPSILONS
    for _ in range(ROUNDS):
        graph = compress(n_latents, *edges.joined(bounds))
        for epsilon in epsilons:
            free_losing(*graph, price_F, column_of_F, row_of_F, epsilon)
            bid(*graph, price_F, column_of_F, row_of_F, epsilon, BIDS * n_latents)
        free_losing(*graph, price_F, column_of_F, row_of_F, 0.0)
        if not augment(*graph, price_F, column_of_F, row_of_F):
            raise ValueError("the candidates allow no perfect matching")
        epsilons = (0.0,)
        gain_F, value_F = gains(*graph, price_F, column_of_F)
        if (column_of_F[bounds.row] == bounds.column).any():  # known, it may be worth less than another
            margin_E = cosines.allowance(bounds.row, bounds.column) + NEAR
            doubted_E = bounds.value > gain_F[bounds.row] + price_F[bounds.column] - margin_E
            edges = edges.joined(known(bounds.where(doubted_E), candidates, cosines))
            bounds = bounds.where(~doubted_E)
            continue
        violated = pricing.violations(gain_F, price_F)
        if len(violated.row) == 0:
            found = Assignment(column_of_F, value_F, gain_F, price_F)
            gap(found)
            return found
        edges = edges.joined(violated)
    raise NotProvenError(f"no proof after {ROUNDS} rounds")


def _first_edges(candidates: Candidates, cosines: Cosines) -> tuple[Edges, Edges]:
    """The first graph, and what of it are but bounds, far below the largest of their row or of their column.

    These seldom match, so that they need not be known exactly.
    """
    edges = candidates.largest(CORE)
    if cosines.exact:
        return edges, edges.where(np.zeros(len(edges.row), dtype=bool))
    best_F, best_of_column_F = (np.full(len(candidates.diagonal), -np.inf, np.float32) for _ in range(2))
    np.maximum.at(best_F, edges.row, edges.value)
    np.maximum.at(best_of_column_F, edges.column, edges.value)
    far_E = edges.value < np.maximum(best_F[edges.row], best_of_column_F[edges.column]) - FAR
    return known(edges.where(~far_E), candidates, cosines), edges.where(far_E)


def random_floor(n_latents: int, d_in: int, seed: int = 0) -> float:
    """Mean matched cosine of two independent Gaussian dictionaries [n_latents, d_in]: what chance alone gives.

    It is an isotropic floor: SAEs trained on anisotropic activations share directions for that reason too, so the
    true floor of two unrelated SAEs lies at or above it. It grows like sqrt(2 ln F / D); 0.081 at F = 18,432,
    D = 2,304. Costs one matching of independent dictionaries.
    """
    generator = torch.Generator().manual_seed(seed)
    a_FD, b_FD = (torch.randn(n_latents, d_in, generator=generator) for _ in range(2))
    return float(match(a_FD, b_FD).cosine.mean(dtype=np.float64))


def _match(index_F: np.ndarray, cosine_F: np.ndarray) -> Match:
    return Match(index=index_F.astype(np.int64), cosine=np.clip(cosine_F, -1, 1).astype(np.float32))


def _rows_of_one_shape(a_FD: Tensor | np.ndarray, b_FD: Tensor | np.ndarray) -> tuple[Dictionary, Dictionary]:
    if a_FD.shape != b_FD.shape:
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
