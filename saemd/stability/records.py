"""One record per pair of seeds: the rows of `stability.json`, and what each of their keys means."""

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


# What a reader is told about each key (report.html); the order is the order of the report's list.
DEFINITIONS: dict[str, str] = {
    "matching": "Latent i of the first seed is paired with one latent of the second so that the sum of cosines is as "
    "large as it can be (Hungarian method), once by encoder directions, π(i), and once by decoder directions, σ(i). "
    "Cosines are signed: u is not −u.",
    "cos dec, cos enc": "Mean cosine of the matched decoder rows (the PW-MCC of arXiv 2505.20254) and of the matched "
    "encoder rows.",
    "drift dec, drift enc": "Mean cosine of a latent's direction with its own start, cos(w_t, w_0), over both seeds. "
    "At 1.0 the latents never moved.",
    "if apart": "Only where the seeds share their start: the cosine that two runs would show had they moved as far "
    "as they did, but in unrelated directions (mean product of the two seeds' cosines with the start). Similarity "
    "above it was added by training, which is still not convergence from different starts.",
    "floor": "Mean matched cosine of two random Gaussian dictionaries of the same size: what chance alone gives. Real "
    "activations are not isotropic, so unrelated SAEs may lie a little above it.",
    "same partner": "Share of latents with π(i) = σ(i): encoder and decoder chose one partner. Blue in the figures.",
    "shared": "Share of latents with the same partner and both cosines above the threshold: the same feature.",
    "shared, cosines alone": "Share with both cosines above the threshold whoever the partners are: the criterion of "
    "Paulo & Belrose (arXiv 2501.16615) read without asking for one partner. Never below “shared”.",
    "same index": "Share with π(i) = σ(i) = i: the latent has kept its place in the dictionary, as latents do that "
    "stay near a shared start.",
    "cos where same / other": "Mean cosines of the latents whose two partners agree, and of those where they do not.",
    "alive in both": "Latents that fire on held-out activations in the first seed and whose partners by encoder and by "
    "decoder fire in the second. Figures for them use the matching of all latents and average over this set.",
    "L0, FVU": "Mean number of active latents per token, and the fraction of the activations' variance left "
    "unexplained, on held-out activations, for each seed. Explained variance is 1 − FVU.",
}
