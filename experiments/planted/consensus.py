"""On a planted dictionary: does a consensus of independent seeds return, and does it hold more features?

python experiments/planted/consensus.py          # about 15 minutes of one core: consensus.json and consensus.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import World, plant, recovered, start, train

from saemd.progress import bar
from saemd.sae import SAE
from saemd.stability import compare
from saemd.stability.consensus import clusters_by_size, mean_sae
from saemd.stability.recurrence import Recurrence, recurrence
from saemd.threads import use_threads
from saemd.training.config import RecipeConfig

HERE = Path(__file__).parent
N, D, F, L0 = 256, 64, 192, 8  # features, activations' width, latents, target
BATCH, STEPS, SEEDS = 512, 2000, 16
REFIT = 4  # one in so many of a seed's steps trains a consensus on
THRESHOLD = 0.7
RECIPE = RecipeConfig(lr=1e-3)
Rows = list[dict[str, Any]]


def found(saes: Sequence[SAE]) -> Recurrence:
    """In how many of the others each latent returns."""
    runs = [SimpleNamespace(path=i, d_sae=F) for i in range(len(saes))]
    pairs: Any = [
        (SimpleNamespace(a=runs[i], b=runs[j]), compare(saes[i], saes[j])) for i, j in combinations(range(len(saes)), 2)
    ]
    if not pairs:
        none = np.zeros((1, F), dtype=np.int16)
        return Recurrence([], none, np.zeros(1, dtype=np.int16), np.zeros((0, 2), dtype=np.int64))
    return recurrence(pairs, THRESHOLD)


def consensus(saes: Sequence[SAE], world: World, at_random: bool) -> SAE:
    """Of the largest clusters; or, as a control, of random ones."""
    with torch.no_grad():
        rates_SF = np.stack([(sae.encode(world.held_out) > 0).float().mean(0).numpy() for sae in saes])
    clusters = clusters_by_size(found(saes), rates_SF)
    if at_random:
        chosen = np.sort(np.random.default_rng(0).choice(len(clusters), F, replace=False))
        return mean_sae(saes, [clusters[i] for i in chosen])
    return mean_sae(saes, clusters[:F])


def row(name: str, world: World, saes: Sequence[SAE]) -> dict[str, Any]:
    """Means over neighbouring pairs of SAEs that have no seed in common, with the least and the most."""
    shares = [float(compare(a, b).shared(THRESHOLD).mean()) for a, b in zip(saes[::2], saes[1::2], strict=True)]
    features = [recovered(sae.W_dec, world.planted, THRESHOLD) for sae in saes]
    return {
        "dictionary": name,
        "pairs": len(shares),
        "shared": float(np.mean(shares)),
        "shared_range": [min(shares), max(shares)],
        "recovered": float(np.mean([latents.mean() for latents, _ in features])),
        "features": float(np.mean([known.mean() for _, known in features])),
        **{key: float(np.mean([world.measure(sae)[key] for sae in saes])) for key in ("fvu", "l0", "dead")},
    }


def refit(sae: SAE, world: World, seed: int) -> SAE:
    sae.target_l0 = L0  # which an SAE for use does not keep
    train(sae, world, RECIPE, batch=BATCH, steps=STEPS // REFIT, seed=seed)
    return sae.folded()


def trained(world: World, seed: int, steps: int) -> SAE:
    sae = start(world, "jumprelu", F, L0, "dual", seed)
    train(sae, world, RECIPE, batch=BATCH, steps=steps, seed=100 + seed)
    return sae.folded()


def main() -> None:
    use_threads(1)
    world, rows = World(plant(N, D, torch.Generator().manual_seed(0))), []
    with bar("seeds", SEEDS + 16, 0, "SAEs") as progress:
        seeds = []
        for seed in range(SEEDS):
            seeds.append(trained(world, seed, STEPS))
            progress.advance()
        rows.append(row("single SAEs", world, seeds))
        for size in (1, 2, 4, 8):
            groups = [seeds[i : i + size] for i in range(0, SEEDS, size)]
            for at_random in (False, True) if size == 8 else (False,):
                made = [consensus(group, world, at_random) for group in groups]
                name = f"{'random clusters' if at_random else 'consensus'} of {size}"
                rows.append(row(f"{name}, as made", world, made))
                again = [refit(sae, world, 1000 + 100 * size + i) for i, sae in enumerate(made)]
                rows.append(row(f"{name}, trained on", world, again))
        rows.append(
            row(
                "single SAEs, 8 times the tokens",
                world,
                [progress.advance() or trained(world, seed, 8 * STEPS) for seed in (90, 91)],
            )
        )
    (HERE / "consensus.json").write_text(json.dumps(rows, indent=1) + "\n")
    (HERE / "consensus.md").write_text(table(rows))
    print(table(rows))


def table(rows: Rows) -> str:
    lines = [
        "| dictionary | pairs | shared | least, most | recovered | features | FVU | L0 | dead |",
        "| --- " + "| ---: " * 8 + "|",
    ]
    for one in rows:
        least, most = one["shared_range"]
        shares = [
            f"{one['shared']:.0%}",
            f"{least:.0%}, {most:.0%}",
            f"{one['recovered']:.0%}",
            f"{one['features']:.0%}",
        ]
        cells = [
            one["dictionary"],
            str(one["pairs"]),
            *shares,
            f"{one['fvu']:.3f}",
            f"{one['l0']:.1f}",
            f"{one['dead']:.0%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
