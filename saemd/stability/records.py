"""One record per pair of seeds: the rows of `stability.json`."""

from __future__ import annotations

from typing import Any

import numpy as np

from saemd.stability.comparison import Comparison, mean
from saemd.stability.runs import Pair, Run

Record = dict[str, Any]


def make_record(pair: Pair, found: Comparison, floor: float, threshold: float) -> Record:
    """A pair's figures; those of `_figures` for all latents and, suffix `_alive`, for those alive in both."""
    a, b = pair.a, pair.b
    alive = found.alive_in_both(a.alive, b.alive)
    everywhere = np.ones_like(alive)
    record: Record = {
        "init": a.init,
        "l0": int(a.l0) if a.l0 == int(a.l0) else a.l0,
        "seeds": [a.seed, b.seed],
        "d_sae": a.d_sae,
        "d_in": a.d_in,
        "encoder": [a.encoder, b.encoder],
        "same_start_dec": pair.same_start("W_dec"),
        "same_start_enc": pair.same_start("W_enc"),
        "alive": int(alive.sum()),
        "alive_each": [int(a.alive.sum()), int(b.alive.sum())],
        "shared_threshold": threshold,
        "achieved_l0": [a.metrics["l0"], b.metrics["l0"]],
        "fvu": [a.metrics["fvu"], b.metrics["fvu"]],
    }
    record |= _figures(pair, found, floor, threshold, everywhere)
    record |= {f"{key}_alive": value for key, value in _figures(pair, found, floor, threshold, alive).items()}
    return record


def record_name(record: Record) -> str:
    """The name that a pair's files share, as `Pair.name`."""
    return f"init={record['init']}_l0={record['l0']:g}_seeds={'-'.join(str(seed) for seed in record['seeds'])}"


def _figures(pair: Pair, found: Comparison, floor: float, threshold: float, keep: np.ndarray) -> Record:
    """`Comparison.summary`, the drift from the start and the random floor over the latents `keep` (bool [F]) of a.

    `drift_*`: mean cos(w_t, w_0), over `keep` in a and over its partners in b. `apart_*`, only where the seeds share
    that start: mean of the products cos_a(i)·cos_b(i), which is the cosine that both runs' latents would have had they
    left the shared start as far as they did but in unrelated directions; similarity beyond it is agreement that
    training added. `random_floor` is the same for both sets: the matching is always that of all latents.
    """
    a, b = pair.a, pair.b
    drifts = {
        "dec": _drift(a, b, "cos_dec_start", keep, found.dec.index[keep]),
        "enc": _drift(a, b, "cos_enc_start", keep, found.enc.index[keep]),
    }
    return {
        **found.summary(threshold, keep),
        "drift_dec": drifts["dec"],
        "drift_enc": drifts["enc"],
        "apart_dec": mean((a.cos_dec_start * b.cos_dec_start)[keep]) if pair.same_start("W_dec") else None,
        "apart_enc": mean((a.cos_enc_start * b.cos_enc_start)[keep]) if pair.same_start("W_enc") else None,
        "random_floor": floor,
    }


def _drift(a: Run, b: Run, name: str, of_a: np.ndarray, of_b: np.ndarray) -> float | None:
    return mean(np.concatenate([getattr(a, name)[of_a], getattr(b, name)[of_b]]))
