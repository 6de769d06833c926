"""The best matching of the whole matrix, found on few candidates and proven on all pairs."""

import numpy as np

from saemd.stability.matching.auction import FREE, bid, compress, free_losing, gains
from saemd.stability.matching.candidates import Candidates, Edges
from saemd.stability.matching.certificate import Assignment, NotProvenError, gap
from saemd.stability.matching.cosines import Cosines
from saemd.stability.matching.paths import augment
from saemd.stability.matching.pricing import NEAR, Pricing, computed

CORE = 32  # of each list's entries, for the first matching
EPSILONS = (0.02, 0.004, 0.0008, 0.00016, 0.000032, 0.0000064, 0.0)  # cosine by which bids of the auction rise
BIDS = 8  # per latent and step of the auction at most; what is left is for the shortest paths
ROUNDS = 50
FAR = 0.1  # a pair this far below the largest of its row or column enters the first graph by its bound


def optimum(candidates: Candidates, cosines: Cosines) -> Assignment:
    """The best matching of the whole matrix, with its certificate checked; `NotProvenError` after `ROUNDS` of pricing.

    It starts on the `CORE` largest of each row and column, and the diagonal, which makes a perfect matching possible.
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
        if (column_of_F[bounds.row] == bounds.column).any():  # exactly, it may be worth less than another
            margin_E = cosines.allowance(bounds.row, bounds.column) + NEAR
            doubted_E = bounds.value > gain_F[bounds.row] + price_F[bounds.column] - margin_E
            edges = edges.joined(computed(bounds.where(doubted_E), candidates, cosines))
            bounds = bounds.where(~doubted_E)
            continue
        violated = pricing.violations(gain_F, price_F)
        if len(violated.row) == 0:
            assignment = Assignment(column_of_F, value_F, gain_F, price_F)
            gap(assignment)
            return assignment
        edges = edges.joined(violated)
    raise NotProvenError(f"no proof after {ROUNDS} rounds")


def _first_edges(candidates: Candidates, cosines: Cosines) -> tuple[Edges, Edges]:
    """The first graph: pairs with exact cosines, and pairs with bounds alone.

    The latter lie far below the largest cosine of their row or column. They seldom match, so bounds are enough.
    """
    edges = candidates.largest(CORE)
    if cosines.exact:
        return edges, edges.where(np.zeros(len(edges.row), dtype=bool))
    best_F, best_of_column_F = (np.full(len(candidates.diagonal), -np.inf, np.float32) for _ in range(2))
    np.maximum.at(best_F, edges.row, edges.value)
    np.maximum.at(best_of_column_F, edges.column, edges.value)
    far_E = edges.value < np.maximum(best_F[edges.row], best_of_column_F[edges.column]) - FAR
    return computed(edges.where(~far_E), candidates, cosines), edges.where(far_E)
