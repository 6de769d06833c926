"""Which keys of SAEBench's JSON make which score, and how they are read.

All scores are 'larger is better'. `eval_result_metrics` holds the figures averaged over a score's pieces (data sets,
letters, attributes, latents), `eval_result_details` and `eval_result_unstructured` the pieces.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]  # one of SAEBench's JSON files


@dataclass(frozen=True)
class Reading:
    """One score of one SAE, as SAEBench's JSON has it."""

    value: float
    values: dict[str, float]  # every figure of eval_result_metrics under its path there, SAEBench's direction
    std: float | None  # sample standard deviation over the pieces
    pieces: int


@dataclass(frozen=True)
class Keys:
    """Where a score is: `path` below eval_result_metrics, `{headline}` standing for the settings' headline k or N."""

    path: str
    pieces_are: str | None = None  # what the value is a mean of
    pieces: Callable[[Result, str], list[float]] = lambda result, leaf: []  # by the path's last part
    inverted: bool = False  # SAEBench's own figure: smaller is better; the score is one minus it
    nan_is_minus_one: bool = False  # core writes -1 where a figure is not a number

    def read(self, result: Result, headline: int | None = None) -> Reading:
        """Raises `ValueError` where the JSON holds no number there."""
        path = self.path.format(headline=headline)
        values = _figures(result["eval_result_metrics"])
        if self.nan_is_minus_one:
            values = {name: value for name, value in values.items() if value != -1}
        if path not in values:
            raise ValueError(f"SAEBench's result holds no {path}: not a number, or nothing was measured")
        value = values[path]
        pieces = [piece for piece in self.pieces(result, path.split(".")[-1]) if math.isfinite(piece)]
        std = statistics.stdev(pieces) if len(pieces) > 1 else None
        return Reading(1 - value if self.inverted else value, values, std, max(len(pieces), 1))


def _figures(metrics: Result, prefix: str = "") -> dict[str, float]:
    """Nested figures under dotted paths; what is not a number is left out."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found |= _figures(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[prefix + name] = float(value)
    return found


def _details(result: Result, leaf: str) -> list[float]:
    """The same key of every entry of eval_result_details: data sets, pairs of classes."""
    return [piece[leaf] for piece in result["eval_result_details"] if piece.get(leaf) is not None]


def _letters(result: Result, leaf: str) -> list[float]:
    return [piece["full_absorption_rate"] for piece in result["eval_result_details"]]


def _attributes(result: Result, leaf: str) -> list[float]:
    entities = result["eval_result_unstructured"].values()
    return [attribute["disentangle_score"] for entity in entities for attribute in entity.values()]


def _latents(result: Result, leaf: str) -> list[float]:
    return [latent["score"] for latent in result["eval_result_unstructured"].values()]


# Absorption: the full score. The fraction was redefined after publication; it is among `values`.
KEYS: dict[str, Keys] = {
    "core": Keys("model_performance_preservation.ce_loss_score", nan_is_minus_one=True),
    "autointerp": Keys("autointerp.autointerp_score", "latents", _latents),
    "sparse_probing": Keys("sae.sae_top_{headline}_test_accuracy", "data sets", _details),
    "sae_probes": Keys("sae.sae_top_{headline}_test_accuracy", "data sets", _details),
    "absorption": Keys("mean.mean_full_absorption_score", "first letters", _letters, inverted=True),
    "ravel": Keys("ravel.disentanglement_score", "attributes", _attributes),
    "unlearning": Keys("unlearning.unlearning_score"),
    "scr": Keys("scr_metrics.scr_metric_threshold_{headline}", "pairs of classes", _details),
    "tpp": Keys("tpp_metrics.tpp_threshold_{headline}_total_metric", "data sets", _details),
}
