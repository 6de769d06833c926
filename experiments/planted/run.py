"""Train SAEs on a planted dictionary and tell shared from recovered latents along training.

python experiments/planted/run.py          # about a minute of one core: results.json and table.md
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from common import World, plant, recovered, start, told_apart, train

from saemd.stability import compare
from saemd.threads import use_threads
from saemd.training.config import RecipeConfig

HERE = Path(__file__).parent
N, D, F, K = 192, 64, 128, 8  # features, activations' width, latents, active latents
BATCH, STEPS = 512, 1500
KEPT = (0, 30, 100, 300, 1500)  # steps
PAIRS = 2  # of seeds, for each start
THRESHOLD = 0.7
RECIPE = RecipeConfig(lr=1e-3)


def main() -> None:
    use_threads(1)
    world = World(plant(N, D, torch.Generator().manual_seed(0)))
    rows = []
    for name in ("shared", "own"):
        ends = []
        for pair in range(PAIRS):
            seeds = (2 * pair, 2 * pair + 1)
            starts = [start(world, "topk", F, K, "tied", 2 * pair if name == "shared" else seed) for seed in seeds]
            runs = zip(starts, seeds, strict=True)
            ends.append(
                [train(sae, world, RECIPE, batch=BATCH, steps=STEPS, seed=100 + seed, kept=KEPT) for sae, seed in runs]
            )
        for step in KEPT:
            figures = []
            for a, b in ends:
                found = compare(a[step], b[step])
                latents, features = recovered(a[step].W_dec, world.planted, THRESHOLD)
                shares = told_apart(found, latents, THRESHOLD)
                figures.append({**shares, "features": float(features.mean()), "fvu": world.measure(a[step])["fvu"]})
            means = {key: float(np.mean([row[key] for row in figures])) for key in figures[0]}
            rows.append({"start": name, "tokens": step * BATCH, "pairs": PAIRS, **means})
    (HERE / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    head = ("start", "tokens", "both", "shared_alone", "recovered_alone", "neither", "features", "fvu")
    lines = ["| " + " | ".join(head).replace("_", " ") + " |", "| --- " + "| ---: " * 7 + "|"]
    for row in rows:
        cells = [row["start"], f"{row['tokens']:,}", *(f"{row[key]:.0%}" for key in head[2:7]), f"{row['fvu']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    (HERE / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
