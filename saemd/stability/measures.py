"""Measures of agreement beyond matched cosines: by firing rate, of what was learned, of what does not return."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from saemd.runs import Run, Weights
from saemd.stability.comparison import Comparison, mean

RATES = (1e-4, 1e-3, 1e-2, 1e-1)  # bounds of the bins; dead latents have a bin of their own
FIFTHS = 5
HELD = 0.5  # share of the squared norm that the compared directions hold


def by_rate(a: Run, b: Run, comparison: Comparison, threshold: float) -> list[dict[str, Any]]:
    """Agreement in bins of the firing rate on held-out tokens: one entry per bin that has latents, rarest first.

    The latents of both runs are counted, each by its own rate: `latents`, the share that is `shared`, and the mean
    matched cosines. A bin holds rates from `low` on and below `high` (None: no bound); dead latents have high 0. Where
    b has more latents, those of a alone are counted; where rates are not known (NaN), there are no bins.
    """
    columns = _columns(a, b, comparison, threshold)
    rate = np.concatenate([run.fire_rate for run in _counted(a, b)])
    bins: list[tuple[float, float | None, np.ndarray]] = [(0.0, 0.0, rate == 0)]
    for low, high in zip((0.0, *RATES), (*RATES, None), strict=True):
        bins.append((low, high, (rate > 0) & (rate >= low) & (rate < (np.inf if high is None else high))))
    return [
        {"low": low, "high": high, "latents": int(inside.sum())}
        | {name: mean(values[inside]) for name, values in columns.items()}
        for low, high, inside in bins
        if inside.any()
    ]


def by_ablation(a: Run, b: Run, comparison: Comparison, threshold: float) -> dict[str, Any]:
    """Do the latents return that the reconstruction needs? From `ablation_fvu`, what each adds to the FVU if set to 0.

    `by_ablation` has one entry per fifth of each run's latents, those that add most first: how many `latents` it has,
    the mean `ablation_fvu`, the share that is `shared`, and the mean matched cosines. `shared_ablation`: of the sum
    over all latents, the part that shared ones have. Where it is not known: no bins, and None.
    """
    runs = _counted(a, b)
    each = [run.ablation_fvu.astype(np.float64).clip(min=0) for run in runs]
    added = np.concatenate(each)
    if not added.sum() > 0:  # or NaN
        return {"shared_ablation": None, "by_ablation": []}
    columns = {"ablation_fvu": added, **_columns(a, b, comparison, threshold)}
    ranks = [np.argsort(np.argsort(-of_run, kind="stable")) for of_run in each]
    fifth = np.concatenate([rank * FIFTHS // len(rank) for rank in ranks])
    bins = [
        {"latents": int((fifth == k).sum())} | {name: mean(values[fifth == k]) for name, values in columns.items()}
        for k in range(FIFTHS)
        if (fifth == k).any()
    ]
    return {"shared_ablation": float((added * columns["shared"]).sum() / added.sum()), "by_ablation": bins}


def _counted(a: Run, b: Run) -> tuple[Run, ...]:
    """The runs whose latents are counted: where b has more latents, a alone."""
    return (a, b) if a.d_sae == b.d_sae else (a,)


def _columns(a: Run, b: Run, comparison: Comparison, threshold: float) -> dict[str, np.ndarray]:
    """`shared` and the matched cosines of the latents of `_counted`."""
    shared, dec, enc = comparison.shared(threshold), comparison.dec, comparison.enc
    if len(_counted(a, b)) == 1:
        return {"shared": shared, "mean_cos_dec": dec.cosine, "mean_cos_enc": enc.cosine}
    of_b = {"mean_cos_dec": dec.cosine[np.argsort(dec.index)], "mean_cos_enc": enc.cosine[np.argsort(enc.index)]}
    return {
        "shared": np.concatenate([shared, comparison.shared_in_b(threshold)]),
        "mean_cos_dec": np.concatenate([dec.cosine, of_b["mean_cos_dec"]]),
        "mean_cos_enc": np.concatenate([enc.cosine, of_b["mean_cos_enc"]]),
    }


def learned(ends: tuple[Weights, Weights], starts: tuple[Weights, Weights], comparison: Comparison) -> dict[str, Any]:
    """Cosines of what matched latents learned, w_T − w_0, as `learned_dec` and `learned_enc` (float32 [F]).

    Two seeds that share a start agree before they learn; here that start is taken off. A latent that did not move has
    cosine 0.
    """
    (end_a, end_b), (start_a, start_b) = ends, starts
    return {
        "learned_dec": _cosines(end_a.W_dec - start_a.W_dec, end_b.W_dec - start_b.W_dec, comparison.dec.index),
        "learned_enc": _cosines(end_a.W_enc.T - start_a.W_enc.T, end_b.W_enc.T - start_b.W_enc.T, comparison.enc.index),
    }


def _cosines(a_FD: Tensor, b_FD: Tensor, index: np.ndarray) -> np.ndarray:
    return cosine_similarity(a_FD, b_FD[torch.from_numpy(index)], dim=1).numpy()


def subspace(a_ND: Tensor, b_MD: Tensor) -> dict[str, float | int | None]:
    """How far two sets of directions lie in one subspace, though no direction returns (2606.12138).

    Of each set, the fewest principal directions are taken that hold `HELD` of the squared norm of its unit rows; of the
    larger subspace as many as the smaller one has, k. `subspace_overlap` is the mean squared cosine of the k principal
    angles: 1 for one subspace, and k / D, `subspace_floor`, on average for random ones. All None for an empty set.
    """
    names = ("subspace_overlap", "subspace_floor", "subspace_dimensions")
    if not len(a_ND) or not len(b_MD):
        return dict.fromkeys(names)
    (a_DD, k_a), (b_DD, k_b) = _principal(a_ND), _principal(b_MD)
    k = min(k_a, k_b)
    overlap = float((a_DD[:, :k].T @ b_DD[:, :k]).pow(2).sum() / k)
    return dict(zip(names, (overlap, k / a_ND.shape[1], k), strict=True))


def _principal(rows_ND: Tensor) -> tuple[Tensor, int]:
    """Principal directions [D, D] in columns, the largest first, and how many hold `HELD` of the squared norm."""
    unit_ND = torch.nn.functional.normalize(rows_ND.double(), dim=1)
    values, vectors_DD = torch.linalg.eigh(unit_ND.T @ unit_ND)
    held = values.flip(0).clamp(min=0).cumsum(0)
    k = int((held < HELD * held[-1]).sum()) + 1
    return vectors_DD.flip(1), min(k, rows_ND.shape[1])
