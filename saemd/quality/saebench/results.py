"""How a score is read from SAEBench's JSON. Each evaluation's file says which keys. Imported in both environments.

All scores are 'larger is better'. `eval_result_metrics` holds the figures averaged over a score's pieces (data sets,
letters, attributes, latents), `eval_result_details` and `eval_result_unstructured` the pieces.
"""

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
    values: dict[str, float]  # every figure of eval_result_metrics under its path, in SAEBench's direction
    std: float | None  # sample standard deviation over the pieces
    pieces: int


@dataclass(frozen=True)
class Keys:
    """Where a score is: `path` below eval_result_metrics, with `{headline}` for the settings' headline k or N."""

    path: str
    pieces_are: str | None = None  # what the value is a mean of
    pieces: Callable[[Result, str], list[float]] = lambda result, leaf: []  # `leaf`: the path's last part
    inverted: bool = False  # in SAEBench's own figure smaller is better; the score is one minus it
    nan_is_minus_one: bool = False  # core writes -1 where a figure is not a number

    def read(self, result: Result, headline: int | None = None) -> Reading:
        """Raises `ValueError` where the JSON holds no number under this path."""
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


def details(result: Result, leaf: str) -> list[float]:
    """The key `leaf` of every entry of eval_result_details: data sets, or pairs of classes."""
    return [piece[leaf] for piece in result["eval_result_details"] if piece.get(leaf) is not None]


def _figures(metrics: Result, prefix: str = "") -> dict[str, float]:
    """Nested figures under dotted paths; what is not a number is left out."""
    figures: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            figures |= _figures(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and math.isfinite(value):
            figures[prefix + name] = float(value)
    return figures
