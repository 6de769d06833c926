"""Which recipe makes seeds with starts of their own agree, on real activations?

    python experiments/recipes/run.py root=runs/recipes            # some five hours of two cores, an estimate
    python experiments/recipes/run.py root=runs/recipes only=collect

Two seeds of `random_mirrored` a recipe, each on one half of the documents. `results.json` and `table.md` are written
beside this file. Each recipe has a run root of its own, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from saemd.arguments import key_values
from saemd.cli import entry
from saemd.training.config import RecipeConfig

HERE = Path(__file__).parent
TRAIN = [
    "-m", "init=random_mirrored", "init.encoder=dual", "seed=24,42", "corpus=packaged", "documents=disjoint",
    "activations.tokens=1_000_000", "logger=none",
]  # fmt: skip
NARROW, WIDE = ("d_sae=256", "l0=10", "tokens=8_192_000"), ("d_sae=3072", "l0=40", "tokens=4_096_000")
LONG = (*NARROW[:2], "tokens=32_768_000", "snapshots=[8_192_000,16_384_000]")
LR3, LR1 = "recipe.lr=3e-3", "recipe.lr=1e-3"
EVERY200, EVERY400 = "recipe.resample_steps=200", "recipe.resample_steps=400"
DECAY1, DECAY3 = "recipe.encoder_decay=1", "recipe.encoder_decay=3"
# fmt: off
BATCH512 = (*NARROW, LR3, EVERY200, DECAY1, "batch_size=512")
STABLE = (*WIDE, LR1, EVERY400, DECAY1, "batch_size=512")
ARCHITECTURES = ("topk", "batch_topk", "matryoshka_batch_topk")  # beside jumprelu
TEXT4 = "activations.tokens=4_000_000"
RECIPES = {  # run root: what is given beside TRAIN
    "lr1e-3": (*NARROW, LR1),
    "lr1e-3-decay1": (*NARROW, LR1, DECAY1),
    "lr3e-3": (*NARROW, LR3),
    "lr3e-3-resample": (*NARROW, LR3, EVERY200),
    "lr3e-3-resample-decay1": (*NARROW, LR3, EVERY200, DECAY1),
    "lr3e-3-resample-decay3": (*NARROW, LR3, EVERY200, DECAY3),
    "lr3e-3-resample-decay1-32M": (*LONG, LR3, EVERY200, DECAY1),
    "same-documents": (*NARROW, LR3, EVERY200, DECAY1, "documents=0/2"),
    "batch512": BATCH512,
    "batch512-text4M": (*BATCH512, TEXT4),
    "batch512-16M": (*NARROW[:2], "tokens=16_384_000", LR3, EVERY200, DECAY1, "batch_size=512"),
    "batch256-lr2e-3": (*NARROW, "recipe.lr=2e-3", EVERY400, DECAY1, "batch_size=256"),
    "wide-default": WIDE,
    "wide-lr1e-3-decay1": (*WIDE, LR1, DECAY1),
    "wide-lr3e-3-resample-decay1": (*WIDE, LR3, EVERY200, DECAY1),
    "wide-every100-decay.3": (
        *WIDE, LR3, "recipe.encoder_decay=0.3", "recipe.resample_steps=100", "recipe.resample_until=0.95"
    ),
    "wide-batch512-lr1e-3-decay1": STABLE,
    "wide-text4M": (*STABLE, TEXT4),
    "wide-batch512-lr2e-3-decay1-lrdecay.7": (
        *WIDE, "recipe.lr=2e-3", EVERY400, DECAY1, "batch_size=512", "recipe.lr_decay_fraction=0.7",
        "recipe.resample_until=0.6",
    ),
    **{f"batch512-{sae}": (*BATCH512, f"sae={sae}") for sae in ARCHITECTURES},
}
HEAD = (
    "SAE", "latents", "tokens", "text", "batch", "lr", "encoder decay", "resampled every", "shared", "by FVU", "alive",
    "shared of the living", "mean cos dec / enc", "L0 (two seeds)", "FVU",
)
KEPT = (
    "d_sae", "l0", "achieved_l0", "seeds", "same_documents", "tokens", "shared", "shared_alive",
    "shared_ablation", "mean_cos_dec", "mean_cos_enc", "drift_dec", "drift_enc", "fvu",
)
# fmt: on
GIVEN = ("lr", "lr_decay_fraction", "encoder_decay", "resample_steps", "resample_until")
THRESHOLD = 0.7


def run(root: Path) -> None:
    for name, words in RECIPES.items():
        command = [sys.executable, "-m", "saemd", "train", *TRAIN, *words, f"run_root={root / name}"]
        subprocess.run(command, check=True)


def row(root: Path, name: str) -> dict[str, Any]:
    folder = root / name / "stability"
    (record,) = json.loads((folder / "stability.json").read_text())
    (pair,) = (folder / "pairs").glob("*.npz")
    first = next((root / name).glob("init=*/l0=*/seed=*"))
    config = yaml.safe_load((first / "config.yaml").read_text())["config"]
    recipe = {**vars(RecipeConfig()), **config["recipe"]}  # what is neutral is not recorded
    cosines = np.load(pair)
    same = cosines["match_enc"] == cosines["match_dec"]
    return {
        "name": name,
        "sae": config["sae"]["name"],
        "text": config["activations"]["tokens"],
        "batch_size": config["batch_size"],
        **{key: recipe[key] for key in GIVEN},
        **{key: record[key] for key in KEPT},
        "alive": record["alive"] / record["d_sae"],
        "shared_by_decoder": float((same & (cosines["cos_dec"] > THRESHOLD)).mean()),
        "shared_by_encoder": float((same & (cosines["cos_enc"] > THRESHOLD)).mean()),
        "by_ablation": [part["shared"] for part in record["by_ablation"]],
    }


def millions(tokens: int) -> str:
    return f"{tokens / 1e6:.1f}".removesuffix(".0") + " M"


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "| --- " + "| ---: " * (len(HEAD) - 1) + "|"]
    for one in rows:
        every = f"{one['resample_steps']} steps" if one["resample_steps"] else "never"
        lr = f"{one['lr']:g}" + " **" * (one["lr_decay_fraction"] != RecipeConfig().lr_decay_fraction)
        cells = [
            one["sae"], f"{one['d_sae']:,}", millions(one["tokens"]), millions(one["text"]), f"{one['batch_size']:,}",
            lr, f"{one['encoder_decay']:g}", every,
            f"**{one['shared']:.0%}**" + " *" * one["same_documents"], f"{one['shared_ablation']:.0%}",
            f"{one['alive']:.0%}", f"{one['shared_alive']:.0%}",
            f"{one['mean_cos_dec']:.2f} / {one['mean_cos_enc']:.2f}",
            ", ".join(f"{l0:.1f}" for l0 in one["achieved_l0"]), ", ".join(f"{fvu:.3f}" for fvu in one["fvu"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    given = key_values(words, ("root", "only"))
    root = Path(given.get("root", "runs/recipes"))
    if given.get("only") != "collect":
        run(root)
    rows = [row(root, name) for name in RECIPES if (root / name / "stability" / "stability.json").is_file()]
    (HERE / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (HERE / "table.md").write_text(table(rows))
    print(table(rows))
    return 0


if __name__ == "__main__":
    entry(main)
