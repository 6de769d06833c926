"""Collect a finished sweep's evidence into a folder, by default this one.

    python experiments/embedded-sweep/collect.py [run_root=runs] [out=experiments/embedded-sweep] [peer=peer.json …]

Writes `metrics.json` (every run's, with the configuration that differs), `table.md`, `stability.json` and the figures
that the README shows. Peer files are what `peer.py` wrote.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
FIGURES = ("figure2_grid", "summary")
SHOWN = ("40", "320")  # target L0 of the single figures


def runs(run_root: Path) -> list[dict[str, Any]]:
    """Every finished run's `metrics.json`, with its start, encoder and seed."""
    rows = []
    for path in run_root.glob("init=*/l0=*/seed=*/metrics.json"):
        config = yaml.safe_load((path.parent / "config.yaml").read_text())["config"]
        about = {"init": config["init"]["label"], "encoder": config["init"]["encoder"], "seed": config["seed"]}
        rows.append({**about, **json.loads(path.read_text())})
    return sorted(rows, key=lambda row: (row["init"], row["target_l0"], row["seed"]))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| start | encoder | target L0 | seed | L0 | off target | FVU | explained variance | dead "
        "| drift dec | drift enc | tokens/s | seconds |",
        "| --- | --- " + "| ---: " * 11 + "|",
    ]
    for row in rows:
        off = row["l0"] / row["target_l0"] - 1
        lines.append(
            f"| {row['init']} | {row['encoder']} | {row['target_l0']} | {row['seed']} | {row['l0']:.1f} | {off:+.1%} "
            f"| {row['fvu']:.3f} | {row['explained_variance']:.3f} | {row['dead_fraction']:.1%} "
            f"| {row['drift_dec']:.2f} | {row['drift_enc']:.2f} "
            f"| {row['tokens_per_second']:,.0f} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> None:
    given = [word.split("=", 1) for word in words]
    run_root = Path(next((value for key, value in given if key == "run_root"), "runs"))
    out = Path(next((value for key, value in given if key == "out"), HERE))
    rows = runs(run_root)
    if not rows:
        sys.exit(f"run_root={run_root}: no finished run here; run the sweep first")
    for path in (Path(value) for key, value in given if key == "peer"):
        there = json.loads(path.read_text())
        about = {"init": there["about"]["trainer"], "encoder": "tied", "seed": there["about"]["arguments"]["seed"]}
        rows.append({**about, **{key: value for key, value in there.items() if key != "about"}})
    (out / "metrics.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "table.md").write_text(table(rows))
    stability = run_root / "stability"
    shutil.copy(stability / "stability.json", out)
    for name in FIGURES:
        shutil.copy(stability / "figures" / f"{name}.png", out / f"{name}.png")
    for figure in stability.glob("figures/figure2_init=*_l0=*_seeds=*.png"):
        init, l0 = re.findall("init=(.+)_l0=(.+)_seeds=", figure.stem)[0]
        if l0 in SHOWN:
            shutil.copy(figure, out / f"figure2-{init}-l0-{l0}.png")
    print((out / "table.md").read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
