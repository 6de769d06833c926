"""All F² pairs compared with gains and prices, though few pairs are listed.

Listed pairs are compared one by one (exactly, where their bounds do not suffice). The others are compared by the bound
min(row floor, column floor) of their lists; where that does not suffice, the pair or its row is computed.
"""

from functools import partial

import numpy as np

from saemd.stability.matching.bounds import FEW, count_open, listed_above, nearest, open_pairs
from saemd.stability.matching.candidates import Candidates, Edges, Lists
from saemd.stability.matching.certificate import SLACK
from saemd.stability.matching.cosines import Cosines, in_parts

ROWS_AT_ONCE = 512
NEAR = 0.02  # cosine by which a listed pair may miss its gain and price and join with those that exceed them


class Pricing:
    """Compares all pairs of a matrix with gains and prices, and keeps a bound for each row that it has computed.

    All but `ADDED_A_ROW` unlisted pairs of such a row obey s_ij <= reference_i + v_j, where v are the prices of the
    first call. Later prices differ little, so a row is seldom computed again.
    """

    def __init__(self, candidates: Candidates, cosines: Cosines):
        self._candidates, self._cosines = candidates, cosines
        self._reference_F = np.full(len(candidates.diagonal), np.inf)
        self._reference_price_F: np.ndarray | None = None

    def violations(self, gain_F: np.ndarray, price_F: np.ndarray) -> Edges:
        """No pairs if s_ij <= u_i + v_j + SLACK for all i, j; otherwise the pairs that should join the graph.

        These are all listed pairs that exceed the bound, and those that nearly do. If only unlisted pairs exceed it,
        these are all pairs that were computed one by one, and the worst pairs of each computed row: they would exceed
        it after the next change of prices.
        """
        rows, columns, diagonal_F = self._candidates.rows, self._candidates.columns, self._candidates.diagonal
        by_row = Edges(*self._exceeding(rows, gain_F, price_F))
        column_E, row_E, value_E = self._exceeding(columns, price_F, gain_F)
        own_E = np.flatnonzero(diagonal_F > gain_F + price_F + SLACK).astype(np.int32)
        violated = by_row.joined(Edges(row_E, column_E, value_E), Edges(own_E, own_E, diagonal_F[own_E]))
        violated = self._exactly(violated, gain_F, price_F)
        if len(violated.row):
            return violated
        if self._reference_price_F is None:
            self._reference_price_F = price_F.copy()
        bounds = (rows.floor, columns.floor, self._reference_F, self._reference_price_F)
        open_F = count_open(gain_F, price_F, *bounds)
        row_E, column_E = open_pairs(open_F, gain_F, price_F, *bounds)
        single = Edges(row_E, column_E, self._cosines.pairs(row_E, column_E))
        worst = float((single.value - gain_F[row_E] - price_F[column_E]).max(initial=-np.inf)) - SLACK
        parts = [single]
        many_F = np.flatnonzero(open_F > FEW).astype(np.int32)
        listed = (rows.index, rows.count, columns.index, columns.count)
        for start in range(0, len(many_F), ROWS_AT_ONCE):
            row_R = many_F[start : start + ROWS_AT_ONCE]
            *part, exceeding = nearest(self._cosines.rows(row_R), row_R, *listed, gain_F, price_F, *bounds)
            parts.append(Edges(*part))
            worst = max(worst, exceeding)
        return violated if worst <= 0 else violated.joined(*parts)

    def _exceeding(self, lists: Lists, own_F: np.ndarray, other_F: np.ndarray) -> list[np.ndarray]:
        margin = NEAR if self._cosines.exact else -SLACK
        work = partial(listed_above, lists.value, lists.index, lists.count, own_F, other_F, margin)
        return [np.concatenate(parts) for parts in zip(*in_parts(self._candidates.pool, len(own_F), work), strict=True)]

    def _exactly(self, listed: Edges, gain_F: np.ndarray, price_F: np.ndarray) -> Edges:
        """Of these pairs, those whose cosine exceeds gain and price, not only its bound; the lists then hold cosines.

        If there are such pairs, those that nearly exceed come along: they would do so after the next change of prices.
        """
        exact = listed if self._cosines.exact else computed(listed, self._candidates, self._cosines)
        excess_E = exact.value - gain_F[exact.row] - price_F[exact.column]
        return exact.where(excess_E > (-NEAR if excess_E.max(initial=-1) > SLACK else np.inf))


def computed(edges: Edges, candidates: Candidates, cosines: Cosines) -> Edges:
    """These pairs with their exact cosines, which the candidates hold from then on."""
    exact = edges._replace(value=cosines.pairs(edges.row, edges.column))
    candidates.put(exact)
    return exact
