"""Which recipe makes seeds with starts of their own agree, on real activations?

    python experiments/recipes/run.py root=runs/recipes            # some two hours of two cores, an estimate
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

from saemd.arguments import key_values
from saemd.cli import entry

HERE = Path(__file__).parent
TRAIN = [
    "-m", "init=random_mirrored", "init.encoder=dual", "seed=24,42", "corpus=packaged", "documents=disjoint",
    "activations.tokens=1_000_000", "logger=none",
]  # fmt: skip
RECIPES = {  # run root: latents, target L0, tokens, learning rate, encoder's decay, steps between resamplings
    "lr1e-3": (256, 10, 8_192_000, "1e-3", "0", "0"),
    "lr1e-3-decay1": (256, 10, 8_192_000, "1e-3", "1", "0"),
    "lr3e-3": (256, 10, 8_192_000, "3e-3", "0", "0"),
    "lr3e-3-resample": (256, 10, 8_192_000, "3e-3", "0", "200"),
    "lr3e-3-resample-decay1": (256, 10, 8_192_000, "3e-3", "1", "200"),
    "lr3e-3-resample-decay3": (256, 10, 8_192_000, "3e-3", "3", "200"),
    "lr3e-3-resample-decay1-32M": (256, 10, 32_768_000, "3e-3", "1", "200"),
    "wide-lr1e-3-decay1": (3072, 40, 4_096_000, "1e-3", "1", "0"),
    "wide-lr3e-3-resample-decay1": (3072, 40, 4_096_000, "3e-3", "1", "200"),
}
HEAD = (
    "latents", "tokens", "lr", "encoder decay", "resampled every", "shared", "decoder alone", "encoder alone", "alive",
    "shared of the living", "mean cos dec / enc", "FVU (two seeds)",
)  # fmt: skip
KEPT = (
    "d_sae", "l0", "seeds", "shared", "shared_alive", "mean_cos_dec", "mean_cos_enc", "drift_dec", "drift_enc", "fvu",
)  # fmt: skip
THRESHOLD = 0.7


def run(root: Path) -> None:
    for name, (d_sae, l0, tokens, lr, decay, every) in RECIPES.items():
        words = [f"d_sae={d_sae}", f"l0={l0}", f"tokens={tokens}", f"recipe.lr={lr}", f"recipe.encoder_decay={decay}"]
        words += [f"recipe.resample_steps={every}"] * (every != "0")
        more = ["snapshots=[8_192_000,16_384_000]"] * (tokens > 2e7)
        command = [sys.executable, "-m", "saemd", "train", *TRAIN, *words, *more, f"run_root={root / name}"]
        subprocess.run(command, check=True)


def row(root: Path, name: str) -> dict[str, Any]:
    folder = root / name / "stability"
    (record,) = json.loads((folder / "stability.json").read_text())
    (pair,) = (folder / "pairs").glob("*.npz")
    cosines = np.load(pair)
    same = cosines["match_enc"] == cosines["match_dec"]
    _, _, tokens, lr, decay, every = RECIPES[name]
    return {
        "name": name, "tokens": tokens, "lr": float(lr), "encoder_decay": float(decay), "resample_steps": int(every),
        **{key: record[key] for key in KEPT},
        "alive": record["alive"] / record["d_sae"],
        "shared_by_decoder": float((same & (cosines["cos_dec"] > THRESHOLD)).mean()),
        "shared_by_encoder": float((same & (cosines["cos_enc"] > THRESHOLD)).mean()),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "| ---: " * len(HEAD) + "|"]
    for one in rows:
        every = f"{one['resample_steps']} steps" if one["resample_steps"] else "never"
        cells = [
            f"{one['d_sae']:,}", f"{one['tokens']:,}", f"{one['lr']:g}", f"{one['encoder_decay']:g}", every,
            f"**{one['shared']:.0%}**", f"{one['shared_by_decoder']:.0%}", f"{one['shared_by_encoder']:.0%}",
            f"{one['alive']:.0%}", f"{one['shared_alive']:.0%}",
            f"{one['mean_cos_dec']:.2f} / {one['mean_cos_enc']:.2f}", ", ".join(f"{fvu:.3f}" for fvu in one["fvu"]),
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
