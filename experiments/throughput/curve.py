"""Does the fast path change what is learned? Two runs that differ in `recipe.fast` alone, their logged curves compared.

    python -m saemd.train logger=csv tokens=2_048_000 init=uniform recipe.fast=false run_root=runs/curve/plain
    python -m saemd.train logger=csv tokens=2_048_000 init=uniform recipe.fast=true run_root=runs/curve/fast
    python experiments/throughput/curve.py root=runs/curve [out=curve.json]

Prints, for the loss, L0 and θ's quantiles, the largest and the median relative difference over all logged steps.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path

FIGURES = ("loss", "reconstruction", "l0", "threshold_q05", "threshold_q50", "threshold_q95")


def curve(root: Path) -> dict[int, dict[str, float]]:
    """Logged figures by step of the one run below `root`."""
    (path,) = root.rglob("metrics.csv")
    with open(path) as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return {int(row["step"]): {name: float(row[f"train/{name}"]) for name in FIGURES} for row in rows}


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    root = Path(given.get("root", "runs/curve"))
    plain, fast = curve(root / "plain"), curve(root / "fast")
    assert plain.keys() == fast.keys(), "the runs logged different steps"
    result: dict[str, object] = {"steps": max(plain), "points": len(plain)}
    for name in FIGURES:
        apart = [abs(fast[step][name] / plain[step][name] - 1) for step in plain if plain[step][name]]
        result[name] = {"largest": max(apart), "median": statistics.median(apart)}
    finals = {way: json.loads(next((root / way).rglob("metrics.json")).read_text()) for way in ("plain", "fast")}
    result["held_out"] = {way: {key: found[key] for key in ("l0", "fvu")} for way, found in finals.items()}
    print(json.dumps(result, indent=1))
    Path(given.get("out", Path(__file__).parent / "curve.json")).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
