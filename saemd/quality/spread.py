"""Spread over seeds, and whether two starts differ: `spread.json`.

The pairs of the test are the cells (target L0, seed) that both starts have. They are few, and not independent: seeds of
a start may share their starting weights, and every L0 uses the same text. A small p says that the difference is larger
than the scatter between these cells, no more.
"""

from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from saemd.quality.records import Record

FEWEST = 6  # pairs below which the two-sided Wilcoxon test cannot reach 0.05 whatever they are: 2 / 2^5 = 0.0625


def summary(records: list[Record]) -> dict[str, Any]:
    """`cells`: each score's mean and standard deviation over seeds; `tests`: each two starts, score by score."""
    return {"cells": cells(records), "tests": tests(records)}


def cells(records: list[Record]) -> list[dict[str, Any]]:
    """One entry per score, start and target L0 with a value, in that order. `std` is None below two seeds."""
    groups: dict[tuple[str, str, float], list[Record]] = {}
    for record in records:
        if record["status"] == "done":
            groups.setdefault((record["score"], record["init"], record["l0"]), []).append(record)
    return [
        {
            "score": score,
            "init": init,
            "l0": l0,
            "achieved_l0": float(np.mean([record["achieved_l0"] for record in group])),
            "seeds": [record["seed"] for record in group],
            "mean": float(np.mean([record["value"] for record in group])),
            "std": float(np.std([record["value"] for record in group], ddof=1)) if len(group) > 1 else None,
        }
        for (score, init, l0), group in groups.items()
    ]


def tests(records: list[Record]) -> list[dict[str, Any]]:
    """One entry per score and two starts that share at least one cell."""
    values: dict[str, dict[str, dict[tuple[float, int], float]]] = {}
    for record in records:
        if record["status"] == "done" and record["seed"] is not None:
            of_start = values.setdefault(record["score"], {}).setdefault(record["init"], {})
            of_start[record["l0"], record["seed"]] = record["value"]
    results = []
    for score, starts in values.items():
        for a, b in combinations(starts, 2):
            shared = sorted(starts[a].keys() & starts[b].keys())
            if shared:
                differences = [starts[a][cell] - starts[b][cell] for cell in shared]
                results.append({"score": score, "init": [a, b], "cells": shared, **paired(differences)})
    return results


def paired(differences: list[float]) -> dict[str, Any]:
    """Wilcoxon's signed-rank test and the paired t test of differences, two-sided; None where they cannot be run."""
    d = np.asarray(differences, dtype=np.float64)
    n = len(d)
    varies = n > 1 and d.std() > 1e-12 * np.abs(d).max()
    wilcoxon: Any = stats.wilcoxon(d) if n > 1 and np.any(d) else None
    t_test: Any = stats.ttest_1samp(d, 0.0) if varies else None
    interval = remark = None
    if varies:
        half = stats.t.ppf(0.975, n - 1) * d.std(ddof=1) / np.sqrt(n)
        interval = [float(d.mean() - half), float(d.mean() + half)]
    if n < FEWEST:
        remark = f"{n} {'pair is' if n == 1 else 'pairs are'} too few: Wilcoxon's test cannot reach p < 0.05"
    return {
        "n": n,
        "mean_difference": float(d.mean()),
        "std_of_differences": float(d.std(ddof=1)) if n > 1 else None,
        "wilcoxon_p": None if wilcoxon is None else float(wilcoxon.pvalue),
        "t_p": None if t_test is None else float(t_test.pvalue),
        "interval_95": interval,
        "remark": remark,
    }
