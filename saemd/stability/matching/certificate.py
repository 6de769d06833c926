"""The proof that a matching is the best of all: prices under which no pair of the whole matrix is worth more.

For any gains u and prices v with u_i + v_j >= s_ij for all i, j, every perfect matching totals at most Σu + Σv, by
linear-programming duality. So a matching with that total is optimal. `pricing` checks the inequality for all pairs, and
`gap` compares the totals.
"""

from dataclasses import dataclass

import numpy as np

SLACK = 1e-12  # a pair may exceed its gain and price by this; it is counted in the bound
ALLOWED = 1e-9  # of a matching's mean cosine below the bound


@dataclass(frozen=True)
class Assignment:
    """Row i takes column `index[i]` at cosine `value[i]`; `gain` and `price` are u and v of the certificate."""

    index: np.ndarray  # int64 [F]
    value: np.ndarray  # float64 [F]
    gain: np.ndarray  # float64 [F]
    price: np.ndarray  # float64 [F]


class NotProvenError(RuntimeError):
    """A matching that its certificate does not show to be optimal."""


def gap(assignment: Assignment) -> float:
    """(Σu + Σv - total) / F for dual feasible u, v up to `SLACK`; raises `NotProvenError` beyond `ALLOWED`."""
    n_latents = len(assignment.index)
    if not np.array_equal(np.sort(assignment.index), np.arange(n_latents)):
        raise NotProvenError("not one to one")
    missing = SLACK + float(
        (assignment.gain.sum() + assignment.price.sum() - assignment.value.sum()) / max(n_latents, 1)
    )
    if not abs(missing) <= ALLOWED:
        raise NotProvenError(f"the mean cosine lies {missing:.1e} below its bound, {ALLOWED:.0e} is allowed")
    return missing
