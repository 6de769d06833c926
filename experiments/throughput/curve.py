"""Does the fast path change what is learned? Runs with and without it, their logged curves compared.

    for i in 0 3 6 9; do for fast in true false; do
      python -m saemd.train logger=csv tokens=2_048_000 init=uniform recipe.fast=$fast recipe.lr=3.000000${i}e-4 \
          run_root=runs/curve/$fast-$i
    done; done
    python experiments/throughput/curve.py root=runs/curve [out=curve.json]

The four learning rates differ by one part in ten million, which is less than float32 rounds off each step: how far runs
of one path leave each other is how far rounding alone leads. Relative differences of the loss, L0 and θ's quantiles
over the logged steps: between a fast and a plain run (16 pairs), between two plain ones (6), two fast ones (6), and
between the means of both paths. `p`: how many of the 35 ways of parting the eight runs into four and four set their
means as far apart as the two paths are (the mean relative difference over all figures and steps); 1/35 is the least.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Iterable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

FIGURES = ("loss", "reconstruction", "l0", "threshold_q05", "threshold_q50", "threshold_q95")


def curve(root: Path) -> np.ndarray:
    """Logged figures [steps, figures] of the one run below `root`."""
    (path,) = root.rglob("metrics.csv")
    with open(path) as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return np.array([[float(row[f"train/{name}"]) for name in FIGURES] for row in rows])


def apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Relative differences of y to x; 0 where x is 0."""
    return np.abs(np.divide(y, x, out=np.ones_like(x), where=x != 0) - 1)


def pairs(both: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Medians over pairs of runs, with the range of what is beyond 1 %."""
    found = [apart(x, y) for x, y in both]
    beyond = [int((one > 0.01).sum()) for one in found]
    return {
        "pairs": len(found),
        "beyond_1_percent": {"median": statistics.median(beyond), "range": [min(beyond), max(beyond)]},
        "of_each_figure": {
            name: {
                "median": float(np.median([np.median(one[:, i]) for one in found])),
                "largest": float(np.median([one[:, i].max() for one in found])),
                "beyond_1_percent": float(np.median([(one[:, i] > 0.01).sum() for one in found])),
            }
            for i, name in enumerate(FIGURES)
        },
    }


def partings(curves: np.ndarray) -> tuple[int, int]:
    """How many ways of parting [2n, …] into two halves set their means as far apart as the first n and the rest."""
    n = len(curves) // 2

    def distance(first: tuple[int, ...]) -> float:
        rest = [i for i in range(2 * n) if i not in first]
        return float(apart(curves[list(first)].mean(0), curves[rest].mean(0)).mean())

    ways = [first for first in combinations(range(2 * n), n) if 0 in first]
    actual = distance(tuple(range(n)))
    return sum(distance(first) >= actual * (1 - 1e-12) for first in ways), len(ways)


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    root = Path(given.get("root", "runs/curve"))
    runs = {way: sorted(root.glob(f"{way}-*")) for way in ("false", "true")}
    plain, fast = ([curve(run) for run in runs[way]] for way in ("false", "true"))
    assert len({one.shape for one in plain + fast}) == 1, "the runs logged different steps"
    far, ways = partings(np.array(plain + fast))
    means = apart(np.mean(plain, 0), np.mean(fast, 0))
    held_out = {
        way: [json.loads(next(run.rglob("metrics.json")).read_text()) for run in folders]
        for way, folders in runs.items()
    }
    result = {
        "logged_steps": len(plain[0]),
        "figures": int(plain[0].size),
        "fast_to_plain": pairs(product(plain, fast)),
        "plain_to_plain": pairs(combinations(plain, 2)),
        "fast_to_fast": pairs(combinations(fast, 2)),
        "means": {
            name: {
                "median": float(np.median(means[:, i])),
                "largest": float(means[:, i].max()),
                "beyond_1_percent": int((means[:, i] > 0.01).sum()),
            }
            for i, name in enumerate(FIGURES)
        },
        "p": f"{far} of {ways}",
        "held_out": {
            name: {key: [one[key] for one in held_out[way]] for key in ("l0", "fvu")}
            for way, name in (("false", "plain"), ("true", "fast"))
        },
    }
    print(json.dumps(result, indent=1))
    Path(given.get("out", Path(__file__).parent / "curve.json")).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
