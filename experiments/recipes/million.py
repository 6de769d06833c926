"""What a recipe changes within one million tokens, from three starts.

    python experiments/recipes/million.py root=runs/million                 # some 20 minutes of two cores, an estimate
    python experiments/recipes/million.py root=runs/million only=collect

Two seeds a start and recipe, each on one half of the documents, in one sweep. `million.json` and `million.md` are
written beside this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from saemd.arguments import key_values
from saemd.cli import entry

HERE = Path(__file__).parent
SWEEP = [
    "-m", "recipe=default,stable", "init=mirror,uniform,random_mirrored", "init.encoder=dual", "seed=24,42",
    "d_sae=3072", "l0=40", "tokens=1_000_000", "corpus=packaged", "documents=disjoint",
    "activations.tokens=1_000_000", "logger=none", "threads=1",
]  # fmt: skip
HEAD = ("start", "recipe", "shared", "by FVU", "mean cosine with the start dec / enc", "alive", "FVU (two seeds)")
KEPT = (
    "init", "seeds", "tokens", "shared", "shared_ablation", "drift_dec", "drift_enc", "fvu", "achieved_l0",
    "same_start_dec",
)  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "| --- | --- " + "| ---: " * (len(HEAD) - 2) + "|"]
    for one in rows:
        cells = [
            one["init"] + " *" * one["same_start_dec"], one["recipe"], f"**{one['shared']:.0%}**",
            f"{one['shared_ablation']:.0%}", f"{one['drift_dec']:.2f} / {one['drift_enc']:.2f}",
            f"{one['alive']:.0%}", ", ".join(f"{fvu:.3f}" for fvu in one["fvu"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    given = key_values(words, ("root", "only"))
    root = Path(given.get("root", "runs/million"))
    if given.get("only") != "collect":
        subprocess.run([sys.executable, "-m", "saemd", "train", *SWEEP, f"run_root={root}"], check=True)
    records = json.loads((root / "stability" / "stability.json").read_text())
    rows = [
        {
            "recipe": one["folder"]["recipe"],
            **{key: one[key] for key in KEPT},
            "alive": one["alive"] / one["d_sae"],
        }
        for one in records
    ]
    (HERE / "million.json").write_text(json.dumps(rows, indent=1) + "\n")
    (HERE / "million.md").write_text(table(rows))
    print(table(rows))
    return 0


if __name__ == "__main__":
    entry(main)
