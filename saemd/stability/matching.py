"""One-to-one matching of two dictionaries' rows: the Hungarian method on signed cosines (Paulo & Belrose, 2501.16615).

Cosines stay signed: with absolute values a mirrored dictionary [U, −U] could not tell u from −u.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saemd.errors import UserError
from saemd.sae import products
from saemd.stability.assignment import FREE, augment, bid, compress, free_losing, gains
from saemd.stability.candidates import Candidates, gather
from saemd.stability.certificate import Assignment, ExactRows, NotProvenError, Pricing, gap

BLOCK_ROWS = 512  # rows of the cosine matrix computed at a time
KEPT = 256  # largest cosines kept of every row and every column, for the proof
CORE = 48  # of these, for the first matching
EPSILONS = (0.02, 0.004, 0.0008, 0.00016, 0.000032, 0.0000064, 0.0)  # cosine by which bids of the auction rise
BIDS = 8  # per latent and step of the auction at most; what is left is for the shortest paths
ROUNDS = 50


@dataclass(frozen=True)
class Match:
    """Row i of the first dictionary is paired with row `index[i]` of the second; `cosine[i]` is their signed cosine."""

    index: np.ndarray  # int64 [F], a permutation
    cosine: np.ndarray  # float32 [F], in [-1, 1]


def match(a_FD: Tensor | np.ndarray, b_FD: Tensor | np.ndarray) -> Match:
    """The permutation p that maximises Σ_i cos(a_i, b_p(i)) over rows, exactly, and proven so by a dual certificate.

    `a_FD`, `b_FD`: [F, D], any float type, any device; rows need no normalising, and a zero row has cosine 0 with
    everything. The cosines are computed in blocks, of which the largest of each row and column are kept: the matching
    is found on these few and proven on all (see `certificate`); where the proof fails, the pairs that break it join
    and it goes on from there. Should that not end in `ROUNDS`, `match_reference` answers, with a warning. Beside the
    dictionaries it takes 0.5 GB at F = 18,432, D = 2,304: both once more with unit rows, and the lists. Raises
    `UserError` on NaN or infinite rows, `ValueError` where the shapes differ.
    """
    a_FD, b_FD = _rows_of_one_shape(a_FD, b_FD)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        candidates = gather(_cosine_blocks(a_FD, b_FD), len(a_FD), KEPT, pool)
    try:
        found = optimum(candidates, lambda row_R: _product(a_FD[torch.from_numpy(row_R)], b_FD))
    except NotProvenError as error:
        warnings.warn(f"matching: {error}; scipy solves this one, slowly", stacklevel=2)
        return match_reference(a_FD, b_FD)
    return _match(found.index, found.value)


def match_reference(a_FD: Tensor | np.ndarray, b_FD: Tensor | np.ndarray) -> Match:
    """`match` by scipy: slow (minutes at F = 18,432), but without an idea of our own.

    Takes one F × F float64 matrix (2.7 GB at F = 18,432), filled in blocks and already negated: scipy solves in
    float64, and would copy a float32 matrix to convert it and once more to maximise.
    """
    a_FD, b_FD = _rows_of_one_shape(a_FD, b_FD)
    cost_FF = np.empty((len(a_FD), len(a_FD)), dtype=np.float64)
    first = 0
    for cosine_BF in _cosine_blocks(a_FD, b_FD):
        np.negative(cosine_BF, out=cost_FF[first : first + len(cosine_BF)])
        first += len(cosine_BF)
    row_F, index_F = linear_sum_assignment(cost_FF)
    return _match(index_F, -cost_FF[row_F, index_F])


def optimum(candidates: Candidates, exact_rows: ExactRows) -> Assignment:
    """The best matching of the whole matrix, with its certificate checked; `NotProvenError` after `ROUNDS` of pricing.

    Starts on each line's `CORE` largest and the diagonal, which makes a perfect matching possible.
    """
    n_latents = len(candidates.diagonal)
    price_F = np.zeros(n_latents)
    column_of_F, row_of_F = (np.full(n_latents, FREE, dtype=np.int64) for _ in range(2))
    edges, pricing = candidates.largest(CORE), Pricing(candidates, exact_rows)
    epsilons = EPSILONS
    for _ in range(ROUNDS):
        graph = compress(n_latents, *edges)
        for epsilon in epsilons:
            free_losing(*graph, price_F, column_of_F, row_of_F, epsilon)
            bid(*graph, price_F, column_of_F, row_of_F, epsilon, BIDS * n_latents)
        free_losing(*graph, price_F, column_of_F, row_of_F, 0.0)
        if not augment(*graph, price_F, column_of_F, row_of_F):
            raise ValueError("the candidates allow no perfect matching")
        gain_F, value_F = gains(*graph, price_F, column_of_F)
        violated = pricing.violations(gain_F, price_F)
        if len(violated.row) == 0:
            found = Assignment(column_of_F, value_F, gain_F, price_F)
            gap(found)
            return found
        edges = edges.joined(violated)
        epsilons = (0.0,)
    raise NotProvenError(f"no proof after {ROUNDS} rounds")


def random_floor(n_latents: int, d_in: int, seed: int = 0) -> float:
    """Mean matched cosine of two independent Gaussian dictionaries [n_latents, d_in]: what chance alone gives.

    It is an isotropic floor: SAEs trained on anisotropic activations share directions for that reason too, so the
    true floor of two unrelated SAEs lies at or above it. It grows like sqrt(2 ln F / D); 0.081 at F = 18,432,
    D = 2,304. Costs one matching of independent dictionaries.
    """
    generator = torch.Generator().manual_seed(seed)
    a_FD, b_FD = (torch.randn(n_latents, d_in, generator=generator) for _ in range(2))
    return float(match(a_FD, b_FD).cosine.mean(dtype=np.float64))


def _cosine_blocks(a_FD: Tensor, b_FD: Tensor) -> Iterator[np.ndarray]:
    """The cosines of unit rows, some rows of `a_FD` at a time: float32 [B, F]."""
    for start in range(0, len(a_FD), BLOCK_ROWS):
        yield _product(a_FD[start : start + BLOCK_ROWS], b_FD)


def _product(a_ND: Tensor, b_FD: Tensor) -> np.ndarray:
    """[N, F] float32, exact to rounding."""
    with products.exact():
        return (a_ND @ b_FD.T).numpy()


def _match(index_F: np.ndarray, cosine_F: np.ndarray) -> Match:
    return Match(index=index_F.astype(np.int64), cosine=np.clip(cosine_F, -1, 1).astype(np.float32))


def _rows_of_one_shape(a_FD: Tensor | np.ndarray, b_FD: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Both as unit rows."""
    if a_FD.shape != b_FD.shape:
        raise ValueError(f"dictionaries of one shape can be matched, not {list(a_FD.shape)} and {list(b_FD.shape)}")
    return _unit_rows(a_FD), _unit_rows(b_FD)


def _unit_rows(rows_FD: Tensor | np.ndarray) -> Tensor:
    """Float32 rows on the CPU, scaled to norm 1 (zero rows stay zero)."""
    rows_FD = torch.as_tensor(rows_FD).detach().to(device="cpu", dtype=torch.float32)
    broken = int((~torch.isfinite(rows_FD)).any(dim=1).sum())
    if broken:
        raise UserError(f"weights: {broken} of {len(rows_FD)} latents are NaN or infinite; train this run again")
    return torch.nn.functional.normalize(rows_FD, dim=1)
