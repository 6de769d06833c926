"""Does the fast path change what is learned? Two runs that differ in `recipe.fast` alone, their logged curves compared.

    python -m saemd.train logger=csv tokens=2_048_000 init=uniform recipe.fast=false run_root=runs/curve/plain
    python -m saemd.train logger=csv tokens=2_048_000 init=uniform recipe.fast=true run_root=runs/curve/fast
    python -m saemd.train logger=csv tokens=2_048_000 init=uniform recipe.fast=false recipe.lr=3.0000003e-4 \
        run_root=runs/curve/nudged                                # how far rounding alone leads; may be left out
    python experiments/throughput/curve.py root=runs/curve [out=curve.json]

Prints, for the loss, L0 and θ's quantiles, the largest and the median relative difference to the plain run over all
logged steps, and how many of them are beyond 1 %.
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


def difference(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Relative, of the second ones to the first."""
    apart = [abs(other / plain - 1) for plain, other in pairs if plain]
    return {"largest": max(apart), "median": statistics.median(apart), "beyond_1_percent": sum(x > 0.01 for x in apart)}


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    root = Path(given.get("root", "runs/curve"))
    plain = curve(root / "plain")
    ways = [way for way in ("fast", "nudged") if (root / way).is_dir()]
    result: dict[str, object] = {"steps": max(plain), "points": len(plain)}
    for way in ways:
        other = curve(root / way)
        assert plain.keys() == other.keys(), "the runs logged different steps"
        result[way] = {name: difference([(plain[step][name], other[step][name]) for step in plain]) for name in FIGURES}
    finals = {way: json.loads(next((root / way).rglob("metrics.json")).read_text()) for way in ("plain", *ways)}
    result["held_out"] = {way: {key: found[key] for key in ("l0", "fvu")} for way, found in finals.items()}
    print(json.dumps(result, indent=1))
    Path(given.get("out", Path(__file__).parent / "curve.json")).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
