"""Does a consensus of seeds with starts of their own return in seeds that saw other documents? With its controls.

    python experiments/recipes/consensus.py root=runs/own-starts            # some 90 minutes of two cores, an estimate
    python experiments/recipes/consensus.py root=runs/own-starts only=collect

Four seeds of 256 latents and four of 384 train on each half of the documents, with the recipe that agrees most, and
eight of 256 on four times as much text. Of two, four and eight seeds one SAE of 256 latents is made; beside it, as a
control, one of clusters that are drawn at random. `consensus.json` and `consensus.md` are written beside this file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from run import DECAY1, EVERY200, LR3, THRESHOLD

from saemd.arguments import key_values
from saemd.cli import entry
from saemd.runs import Run, find_runs
from saemd.sae import SAE, load_finite
from saemd.sae.measures import HeldOut, Pooled
from saemd.stability import compare
from saemd.stability.__main__ import held_out
from saemd.stability.consensus import clusters_by_size, mean_sae
from saemd.stability.consensus_runs import SUFFIX, recurrence_of

HERE = Path(__file__).parent
TRAIN = [
    "train", "-m", "init=random_mirrored", "init.encoder=dual", "corpus=packaged", "logger=none",
    "l0=10", "tokens=8_192_000", "batch_size=512", LR3, EVERY200, DECAY1,
]  # fmt: skip
HALVES = (("0/2", "1,2,3,4"), ("1/2", "5,6,7,8"))
LATENTS = 256
EIGHT = (("0/2", "1,2,3,4,9,10,11,12"), ("1/2", "5,6,7,8,13,14,15,16"))
WORLDS = (  # run root, latents of a seed, million tokens of text, seeds on each half of the documents
    ("256", 256, 1, HALVES),
    ("384", 384, 1, HALVES),
    ("256-text4M", 256, 4, EIGHT),
)
SIZES = (2, 4, 8)  # seeds of a consensus, where there are so many
SEEDS = "init=random_mirrored"
STATES = {  # of a consensus that is trained on: what the command is given
    "decoder held": ("recipe.lr=3e-4",),
    "both held": ("recipe.lr=1e-3", "recipe.freeze_encoder_after=0"),
}
HEAD = (
    "dictionary", "latents", "text", "documents", "pairs", "shared", "least, most", "of the living", "by FVU",
    "mean cos dec / enc", "FVU", "L0",
)  # fmt: skip
Row = dict[str, Any]
Measured = tuple[SAE, HeldOut]


def saemd(*words: str) -> None:
    print("saemd", *words, flush=True)
    subprocess.run([sys.executable, "-m", "saemd", *words], check=True)


def train(root: Path) -> None:
    for name, d_sae, text, halves in WORLDS:
        for documents, seeds in halves:
            words = [f"d_sae={d_sae}", f"documents={documents}", f"seed={seeds}", f"run_root={root / name}"]
            saemd(*TRAIN, f"activations.tokens={text}_000_000", *words)
        for state, words in STATES.items():
            place = place_of(root, name, state)
            if not place.exists():
                shutil.copytree(root / name / SEEDS, place / SEEDS)
            for size in sizes(halves):
                saemd("consensus", f"run_root={place}", f"seeds={size}", f"d_sae={LATENTS}", *words)


def sizes(halves: Sequence[tuple[str, str]]) -> list[int]:
    """Of `SIZES` those of which each half has enough seeds."""
    return [size for size in SIZES if size <= len(halves[0][1].split(","))]


def place_of(root: Path, world: str, state: str) -> Path:
    """The run root of one state of the consensus: the seeds' own, or one beside it with the same seeds."""
    return root / (world if state == "decoder held" else f"{world}-{state.replace(' ', '-')}")


def measured(sae: SAE, run: Run) -> Measured:
    """The SAE with what it does on the held-out activations of `run`, which all runs share."""
    pooled = Pooled(sae.d_in, sae.d_sae)
    for x_BD in held_out(10**9)(run):
        pooled.update(sae, x_BD)
    return sae, pooled.result()


def as_made(group: Sequence[Run], at_random: bool, d_sae: int = LATENTS) -> Measured:
    """The consensus of these seeds, not trained on; or, as a control, one of clusters that are drawn at random."""
    folder = group[0].run_root / "stability"
    found, rates_SF = recurrence_of(folder, group, THRESHOLD), np.stack([run.fire_rate for run in group])
    clusters = clusters_by_size(found, rates_SF)
    order = np.random.default_rng(group[0].seed).permutation(len(clusters)) if at_random else range(len(clusters))
    return measured(mean_sae([load_finite(run.path) for run in group], [clusters[i] for i in order][:d_sae]), group[0])


def row(name: str, documents: str, pairs: Sequence[tuple[Measured, Measured]]) -> Row:
    figures = []
    for (a, of_a), (b, of_b) in pairs:
        found = compare(a, b)
        shared, in_b = found.shared(THRESHOLD), found.shared_in_b(THRESHOLD)
        alive = found.alive_in_both(of_a.alive.numpy(), of_b.alive.numpy())
        added = [of.ablation_fvu.double().numpy().clip(min=0) for of in (of_a, of_b)]
        figures.append(
            {
                "shared": shared.mean(),
                "of_living": shared[alive].mean(),
                "by_fvu": (added[0] @ shared + added[1] @ in_b) / (added[0].sum() + added[1].sum()),
                "mean_cos_dec": found.dec.cosine.mean(),
                "mean_cos_enc": found.enc.cosine.mean(),
                "fvu": (of_a.fvu + of_b.fvu) / 2,
                "l0": (of_a.l0 + of_b.l0) / 2,
            }
        )
    means = {key: float(mean(float(one[key]) for one in figures)) for key in figures[0]}
    spread = [float(end(one["shared"] for one in figures)) for end in (min, max)]
    latents = pairs[0][0][0].d_sae
    return {
        "dictionary": name, "latents": latents, "documents": documents, "pairs": len(pairs), "range": spread, **means
    }  # fmt: skip


def rows_of(name: str, halves: Sequence[Sequence[Measured]]) -> list[Row]:
    """One row for pairs across the halves, one for pairs within a half, where there are any."""
    within = [pair for half in halves for pair in combinations(half, 2)]
    rows = [row(name, "other", list(product(halves[0], halves[1])))]
    return [*rows, row(name, "same", within)] if within else rows


@torch.no_grad()
def collect(root: Path) -> list[Row]:
    rows = list[Row]()
    for world, d_sae, text, seeds_of in WORLDS:
        runs, _ = find_runs(root / world)
        seeds = sorted((run for run in runs if not run.init.endswith(SUFFIX)), key=lambda run: run.seed)
        halves = [[run for run in seeds if str(run.seed) in numbers.split(",")] for _, numbers in seeds_of]
        first = len(rows)
        rows += rows_of("single", [[measured(load_finite(run.path), run) for run in half] for half in halves])
        for size in sizes(seeds_of):
            grouped = [[half[i : i + size] for i in range(0, len(half), size)] for half in halves]
            for at_random in (False, True):
                made = [[as_made(group, at_random) for group in groups] for groups in grouped]
                what = f"{'random clusters' if at_random else 'consensus'} of {size}, seeds of {d_sae}"
                rows += rows_of(f"{what}, as made", made)
            firsts = [[str(group[0].seed) for group in groups] for groups in grouped]
            for state in STATES:
                of_state, _ = find_runs(place_of(root, world, state))
                trained = [run for run in of_state if run.init.endswith(SUFFIX) and run.parts.get("of") == str(size)]
                rows += rows_of(
                    f"consensus of {size}, seeds of {d_sae}, {state}",
                    [[measured(load_finite(run.path), run) for run in trained if str(run.seed) in f] for f in firsts],
                )
        for one in rows[first:]:
            one["text"] = text
    return rows


def fifths(root: Path) -> dict[str, list[float]]:
    """The share of single SAEs' latents that is shared, in fifths by what a latent does, means over pairs."""
    records = [
        one for one in json.loads((root / "stability" / "stability.json").read_text()) if SUFFIX not in one["init"]
    ]
    return {
        kind: [
            mean(one["by_ablation"][k]["shared"] for one in records if one["same_documents"] == same) for k in range(5)
        ]
        for kind, same in (("other", False), ("same", True))
    }


def table(rows: list[Row]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "| --- " + "| ---: " * (len(HEAD) - 1) + "|"]
    for one in rows:
        cells = [
            one["dictionary"], f"{one['latents']}", f"{one['text']} M", one["documents"], f"{one['pairs']}",
            f"**{one['shared']:.0%}**", "{:.0%}, {:.0%}".format(*one["range"]), f"{one['of_living']:.0%}",
            f"{one['by_fvu']:.0%}",
            f"{one['mean_cos_dec']:.2f} / {one['mean_cos_enc']:.2f}", f"{one['fvu']:.3f}", f"{one['l0']:.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    given = key_values(words, ("root", "only"))
    root = Path(given.get("root", "runs/own-starts"))
    if given.get("only") != "collect":
        train(root)
    rows = collect(root)
    found = {"rows": rows, "fifths": fifths(root / str(LATENTS))}
    (HERE / "consensus.json").write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "consensus.md").write_text(table(rows))
    print(table(rows))
    return 0


if __name__ == "__main__":
    entry(main)
