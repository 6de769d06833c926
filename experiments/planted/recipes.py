"""On a planted dictionary: which recipe makes seeds with starts of their own agree, and what does it cost in FVU?

python experiments/planted/recipes.py          # 42 minutes beside other work: recipes.json and recipes.md
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import World, plant, recovered, start, train

from saemd.progress import bar
from saemd.sae import SAE
from saemd.stability import compare
from saemd.threads import use_threads
from saemd.training.config import RecipeConfig

HERE = Path(__file__).parent
N, D, F, L0 = 256, 64, 192, 8  # features, activations' width, latents, target
BATCH, SEEDS, THRESHOLD = 512, 4, 0.7
RECIPES = [  # steps, and the recipe
    (2000, RecipeConfig(lr=3e-4)),
    (2000, RecipeConfig(lr=1e-3)),
    (2000, RecipeConfig(lr=1e-3, encoder_decay=1.0)),
    (2000, RecipeConfig(lr=3e-3)),
    (2000, RecipeConfig(lr=3e-3, resample_steps=100)),
    (8000, RecipeConfig(lr=1e-3)),
    (8000, RecipeConfig(lr=1e-3, resample_steps=200)),
    (8000, RecipeConfig(lr=3e-3)),
    (8000, RecipeConfig(lr=3e-3, resample_steps=200)),
]
HEAD = (
    "steps",
    "lr",
    "encoder decay",
    "resampled every",
    "shared",
    "least, most",
    "of the living",
    "alive",
    "features",
    "FVU",
)


def trained(world: World, seed: int, steps: int, recipe: RecipeConfig) -> SAE:
    sae = start(world, "jumprelu", F, L0, "dual", seed, "random_mirrored")
    train(sae, world, recipe, batch=BATCH, steps=steps, seed=100 + seed)
    return sae.folded()


def row(world: World, saes: list[SAE]) -> dict[str, Any]:
    """Means over pairs that have no seed in common, with the least and the most."""
    with torch.no_grad():
        alive = [(sae.encode(world.held_out) > 0).any(0).numpy() for sae in saes]
    shares, of_living = [], []
    for i in range(0, len(saes), 2):
        found = compare(saes[i], saes[i + 1])
        shared = found.shared(THRESHOLD)
        both = found.alive_in_both(alive[i], alive[i + 1])
        shares.append(float(shared.mean()))
        of_living.append(float(shared[both].mean()))
    return {
        "shared": float(np.mean(shares)),
        "shared_range": [min(shares), max(shares)],
        "shared_alive": float(np.mean(of_living)),
        "alive": float(np.mean(alive)),
        "features": float(np.mean([recovered(sae.W_dec, world.planted, THRESHOLD)[1].mean() for sae in saes])),
        **{key: float(np.mean([world.measure(sae)[key] for sae in saes])) for key in ("fvu", "l0")},
    }


def main() -> None:
    use_threads(1)
    world, rows = World(plant(N, D, torch.Generator().manual_seed(0))), []
    with bar("recipes", len(RECIPES) * SEEDS, 0, "SAEs") as progress:
        for steps, recipe in RECIPES:
            saes = [progress.advance() or trained(world, seed, steps, recipe) for seed in range(SEEDS)]
            changed = {key: value for key, value in asdict(recipe).items() if value != getattr(RecipeConfig(), key)}
            rows.append({"steps": steps, "pairs": SEEDS // 2, "recipe": changed, **row(world, saes)})
            (HERE / "recipes.json").write_text(json.dumps(rows, indent=1) + "\n")
    (HERE / "recipes.md").write_text(table(rows))
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "| ---: " * len(HEAD) + "|"]
    for one in rows:
        recipe, (least, most) = {"lr": RecipeConfig.lr, **one["recipe"]}, one["shared_range"]
        cells = [
            f"{one['steps']:,}", f"{recipe['lr']:g}", f"{recipe.get('encoder_decay', 0):g}",
            f"{recipe['resample_steps']} steps" if "resample_steps" in recipe else "never",
            f"{one['shared']:.0%}", f"{least:.0%}, {most:.0%}", f"{one['shared_alive']:.0%}", f"{one['alive']:.0%}",
            f"{one['features']:.0%}", f"{one['fvu']:.3f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
