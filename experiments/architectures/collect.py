"""Collect the sweep of README.md: every run's figures in metrics.json, and their means over seeds in table.md.

python experiments/architectures/collect.py [run_root=runs/architectures]
"""

from __future__ import annotations

import json
import statistics
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from saemd.arguments import key_values
from saemd.runs import find_runs
from saemd.sae import ARCHITECTURES

HERE = Path(__file__).parent
FIGURES = ("l0", "fvu", "explained_variance", "dead_fraction", "drift_dec", "tokens_per_second", "seconds")


def rows(run_root: Path) -> list[dict[str, Any]]:
    """One row a run, by start, architecture and seed."""
    runs, broken = find_runs(run_root)
    assert not broken, broken
    order = list(ARCHITECTURES)
    found = [
        {"init": run.init, "sae": run.config["sae"]["name"], "seed": run.seed, "target_l0": run.l0}
        | {figure: run.metrics[figure] for figure in FIGURES}
        for run in runs
    ]
    return sorted(found, key=lambda row: (row["init"], order.index(row["sae"]), row["seed"]))


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds, and the largest distance of a seed's FVU from its mean."""
    lines = ["| start | architecture | seeds | L0 | FVU | dead | drift dec |", "| --- | --- " + "| ---: " * 5 + "|"]
    for (init, sae), group in groupby(rows, key=lambda row: (row["init"], row["sae"])):
        members = list(group)
        mean = {figure: statistics.mean(row[figure] for row in members) for figure in FIGURES}
        spread = max(abs(row["fvu"] - mean["fvu"]) for row in members)
        fvu = f"{mean['fvu']:.4f}" + (f" ± {spread:.4f}" if len(members) > 1 else "")
        lines.append(
            f"| `{init}` | `{sae}` | {len(members)} | {mean['l0']:.1f} | {fvu} | {mean['dead_fraction']:.1%} | "
            f"{mean['drift_dec']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> None:
    run_root = Path({"run_root": "runs/architectures", **key_values(words, ("run_root",))}["run_root"])
    collected = rows(run_root)
    (HERE / "metrics.json").write_text(json.dumps(collected, indent=1) + "\n")
    (HERE / "table.md").write_text(table(collected))
    print(table(collected))


if __name__ == "__main__":
    main(sys.argv[1:])
