"""Train SAEs on a planted dictionary and tell shared from recovered latents along training.

python experiments/planted/run.py          # about a minute of one core: results.json and table.md
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from saemd.runs import Weights
from saemd.sae import ARCHITECTURES, SAE, InitConfig, Progress, build
from saemd.stability import compare
from saemd.stability.planted import Planted, plant, recovered, told_apart
from saemd.training.config import RecipeConfig
from saemd.training.optimizer import SAEAdam

HERE = Path(__file__).parent
N, D, F, K = 192, 64, 128, 8  # features, activations' width, latents, active latents
BATCH, STEPS = 512, 1500
KEPT = (0, 30, 100, 300, 1500)  # steps
PAIRS = 2  # of seeds, for each start
THRESHOLD = 0.7


def start(planted: Planted, seed: int) -> SAE:
    sample = planted.sample(4096, torch.Generator().manual_seed(10**6 + 1))  # the same for every seed
    generator = torch.Generator().manual_seed(seed)
    sources: Any = SimpleNamespace(d_in=D, d_sae=F, generator=generator, sample=lambda: sample)
    config = ARCHITECTURES["topk"].Config(name="topk")
    return build(InitConfig("uniform", "uniform", "tied"), config, sources, target_l0=K, scale=1.0)


def train(planted: Planted, init_seed: int, data_seed: int) -> dict[int, tuple[Weights, float]]:
    """The dictionaries and the FVU at the steps of `KEPT`."""
    sae, generator = start(planted, init_seed), torch.Generator().manual_seed(data_seed)
    optimizer = SAEAdam(sae, RecipeConfig(lr=1e-3))
    held_out = planted.sample(4096, torch.Generator().manual_seed(10**6))
    kept = {}
    for step in range(STEPS + 1):
        if step in KEPT:
            with torch.no_grad():
                error = (sae(held_out) - held_out).pow(2).sum() / (held_out - held_out.mean(0)).pow(2).sum()
            kept[step] = Weights(sae.W_enc.detach().clone(), sae.W_dec.detach().clone()), error.item()
        if step == STEPS:
            return kept
        loss = sae.objective(planted.sample(BATCH, generator), Progress(step, STEPS))
        optimizer.zero_grad()
        loss.backward(sae)
        optimizer.step()
    raise AssertionError


def main() -> None:
    torch.set_num_threads(1)
    planted = plant(N, D, torch.Generator().manual_seed(0))
    rows = []
    for name in ("shared", "own"):
        ends = []
        for pair in range(PAIRS):
            seeds = (2 * pair, 2 * pair + 1)
            ends.append([train(planted, 2 * pair if name == "shared" else seed, 100 + seed) for seed in seeds])
        for step in KEPT:
            figures = []
            for a, b in ends:
                found = compare(a[step][0], b[step][0])
                latents, features = recovered(a[step][0].W_dec, planted, THRESHOLD)
                shares = told_apart(found, latents, THRESHOLD)
                figures.append({**shares, "features": float(features.mean()), "fvu": a[step][1]})
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
