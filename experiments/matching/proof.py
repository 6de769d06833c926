"""A matching's certificate checked once more, without what `match` knows of it: for the benchmark and the tests."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from saemd.stability.matching.candidates import Candidates
from saemd.stability.matching.certificate import Assignment, NotProvenError, gap
from saemd.stability.matching.cosines import Cosines
from saemd.stability.matching.pricing import Pricing


def certify(assignment: Assignment, candidates: Candidates, cosines: Cosines) -> float:
    """Check all pairs; returns how far the mean cosine may lie below the optimum."""
    violated = Pricing(candidates, cosines).violations(assignment.gain, assignment.price)
    if len(violated.row):
        raise NotProvenError("some pairs are worth more than their gain and price")
    return gap(assignment)


def excess(assignment: Assignment, blocks: Iterable[np.ndarray]) -> float:
    """max_ij s_ij - u_i - v_j over the matrix given as consecutive blocks of rows: the plain check of `Pricing`."""
    largest, first = -np.inf, 0
    for block_BF in blocks:
        bound_BF = assignment.gain[first : first + len(block_BF), None] + assignment.price
        largest = max(largest, float((block_BF - bound_BF).max()))
        first += len(block_BF)
    return largest
