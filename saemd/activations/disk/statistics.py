"""Statistics of the cached tokens, summed in float64 shard by shard, so that a resumed cache has the same ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saemd.activations.disk.shards import to_float

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
_STEP = 1.01  # ratio of a histogram bin's edges: quantiles are exact to half a per cent
_LOWEST = -20_000  # the bin of norm 0
_CHUNK = 4096  # rows widened to float64 at a time


@dataclass
class Statistics:
    """Statistics of a cache's training tokens, in raw units, after rounding to bfloat16."""

    mean: list[float]  # [D]
    mean_squared_norm: float
    norm_quantiles: dict[str, float]  # "0.5" → the median norm; exact to half a per cent


@dataclass
class Sums:
    """The sums so far, which `progress.json` keeps from shard to shard."""

    tokens: int
    values: np.ndarray  # [D] float64
    squared_norms: float
    histogram: dict[int, int] = field(default_factory=dict)  # bin → tokens; bin b holds norms from 1.01^b to 1.01^(b+1)

    @classmethod
    def zero(cls, d_in: int) -> Sums:
        return cls(0, np.zeros(d_in), 0.0)

    def add(self, bits_ND: np.ndarray, norms_N: np.ndarray) -> None:
        """Add a shard's tokens: their bfloat16 bits, and their float64 norms."""
        self.add_shard(shard_sums(bits_ND, norms_N))

    def add_shard(self, shard: dict[str, Any]) -> None:
        """Add a shard's `shard_sums`."""
        self.tokens += shard["tokens"]
        for values_D in shard["values"]:
            self.values += values_D
        self.squared_norms += shard["squared_norms"]
        for key, count in shard["histogram"]:
            self.histogram[key] = self.histogram.get(key, 0) + count

    def statistics(self) -> Statistics:
        assert self.tokens > 0
        keys = sorted(self.histogram)
        below = np.cumsum([self.histogram[key] for key in keys])
        quantiles = {}
        for q in QUANTILES:
            key = keys[int(np.searchsorted(below, q * self.tokens))]
            quantiles[str(q)] = 0.0 if key == _LOWEST else float(_STEP ** (key + 0.5))
        return Statistics((self.values / self.tokens).tolist(), self.squared_norms / self.tokens, quantiles)

    def to_json(self) -> dict[str, Any]:
        """Exact: Python writes a float64 with as many digits as it needs."""
        return {
            "tokens": self.tokens,
            "values": self.values.tolist(),
            "squared_norms": self.squared_norms,
            "histogram": sorted(self.histogram.items()),
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Sums:
        histogram = {int(key): int(count) for key, count in saved["histogram"]}
        values = np.array(saved["values"], dtype=np.float64)
        counted = sum(histogram.values()) == saved["tokens"] and min(histogram.values(), default=0) >= 0
        if (
            not counted
            or values.ndim != 1
            or not math.isfinite(values.sum() + saved["squared_norms"] + saved["tokens"])
        ):
            raise ValueError("no sums of activations")
        return cls(int(saved["tokens"]), values, float(saved["squared_norms"]), histogram)


def shard_sums(bits_ND: np.ndarray, norms_N: np.ndarray) -> dict[str, Any]:
    """What `Sums.add_shard` adds of a shard's tokens, as plain values that JSON keeps exactly.

    `values` are those of each `_CHUNK` rows, not the shard's sum: added in order, they give the same bits whoever
    computed them.
    """
    starts = range(0, len(bits_ND), _CHUNK)
    with np.errstate(divide="ignore"):
        bins = np.floor(np.log(norms_N) / np.log(_STEP)).clip(_LOWEST, None).astype(np.int64)
    return {
        "tokens": len(bits_ND),
        "values": [to_float(bits_ND[i : i + _CHUNK]).sum(axis=0, dtype=np.float64).tolist() for i in starts],
        "squared_norms": float(np.square(norms_N).sum()),
        "histogram": [[int(key), int(count)] for key, count in zip(*np.unique(bins, return_counts=True), strict=True)],
    }


def norms(bits_ND: np.ndarray) -> np.ndarray:
    """Euclidean norms [N] in float64, of tokens as bfloat16 bits; NaN or Inf where a value is."""
    squares = [
        np.square(to_float(bits_ND[i : i + _CHUNK]), dtype=np.float64).sum(1) for i in range(0, len(bits_ND), _CHUNK)
    ]
    return np.sqrt(np.concatenate(squares)) if squares else np.zeros(0)
