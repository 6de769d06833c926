"""At 3,072 latents: do a few seeds tell which latents will return, and does their consensus return?

    python experiments/recipes/wide.py root=runs/wide               # some 90 minutes of two cores, an estimate
    python experiments/recipes/wide.py root=runs/wide only=collect

Four seeds of `recipe=stable` with starts of their own train on each half of the documents. `wide.json` and `wide.md`
are written beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from consensus import HALVES, SEEDS, Measured, Row, as_made, measured, rows_of, saemd, table
from run import THRESHOLD

from saemd.arguments import key_values
from saemd.cli import entry
from saemd.runs import Run, read_run
from saemd.sae import SAE, load_finite
from saemd.stability import compare

HERE = Path(__file__).parent
TRAIN = [
    "train", "-m", "recipe=stable", "init=random_mirrored", "init.encoder=dual", "corpus=packaged", "logger=none",
    "activations.tokens=1_000_000", "d_sae=3072", "l0=40", "tokens=4_096_000", "threads=1", "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
]  # fmt: skip
STATES = {  # of a consensus that is trained on: what the command is given, as its folder has it
    "decoder held": ("recipe.lr=0.0001",),
    "decoder held, the seeds' learning rate": (),
    "trained on in all weights": ("recipe.freeze_decoder_after=1.0", "recipe.lr=0.0001"),
    "most recurrent third, decoder held": ("d_sae=1024", "recipe.lr=0.0001"),
}


def train(root: Path) -> None:
    for documents, seeds in HALVES:
        saemd(*TRAIN, f"documents={documents}", f"seed={seeds}", f"run_root={root}")
    for words in STATES.values():
        saemd("consensus", f"run_root={root}", "seeds=4", *words)


def consensus_runs(root: Path, words: Sequence[str]) -> list[Run]:
    """Those of a state, one of each half: each is named by its first seed."""
    folder = Path(root, "init=random_mirrored-consensus", "l0=40", *sorted([*words, "of=4"]))
    return [read_run(folder / f"seed={seeds.split(',')[0]}") for _, seeds in HALVES]


def returns(found: Iterable[tuple[np.ndarray, Measured, np.ndarray]]) -> list[Row]:
    """Of latents that return in r of three seeds, how many return elsewhere; means over SAEs.

    `found`, for each SAE: in how many seeds its latents return [F], what it does, the share in which they return [F].
    """
    cells = [{key: list[float]() for key in ("latents", "of_fvu", "alive", "returns")} for _ in range(4)]
    for recurrence, (_, of), elsewhere in found:
        does = of.ablation_fvu.double().numpy().clip(min=0)
        for r, cell in enumerate(cells):
            these = recurrence == r
            cell["latents"].append(float(these.mean()))
            cell["of_fvu"].append(float(does[these].sum() / does.sum()))
            cell["alive"].append(float(of.alive.numpy()[these].mean()))
            cell["returns"].append(float(elsewhere[these].mean()))
    return [
        {
            "seeds": r,
            **{key: mean(values) for key, values in cell.items()},
            "range": [min(cell["returns"]), max(cell["returns"])],
        }
        for r, cell in enumerate(cells)
    ]


def of_seeds(halves: list[list[Measured]]) -> Iterator[tuple[np.ndarray, Measured, np.ndarray]]:
    """Of each seed: in how many of the others with its documents, in which share of those with other documents."""
    for own, other in permutations(halves, 2):
        for i, one in enumerate(own):
            siblings = [sae for j, (sae, _) in enumerate(own) if j != i]
            yield shared(one[0], siblings), one, shared(one[0], [sae for sae, _ in other]) / len(other)


def of_consensus(root: Path) -> Iterator[tuple[np.ndarray, Measured, np.ndarray]]:
    """Of the two consensus SAEs with the decoder held: in how many other seeds; and does it return in the other one."""
    runs = consensus_runs(root, STATES["decoder held"])
    for run, other in permutations([(run, measured(load_finite(run.path), run)) for run in runs]):
        recurrence = np.load(run[0].path / "latents.npz")["recurrence"]
        yield recurrence, run[1], shared(run[1][0], [other[1][0]])


def shared(sae: SAE, others: Sequence[SAE]) -> np.ndarray:
    """In how many of the others each latent of `sae` returns [F]."""
    return np.stack([compare(sae, other).shared(THRESHOLD) for other in others]).sum(0)


@torch.no_grad()
def collect(root: Path) -> dict[str, list[Row]]:
    of_half = [
        [read_run(root / SEEDS / "l0=40" / f"seed={seed}") for seed in numbers.split(",")] for _, numbers in HALVES
    ]
    seeds = [[measured(load_finite(run.path), run) for run in half] for half in of_half]
    rows = rows_of("single", seeds)
    for at_random in (False, True):
        made = [[as_made(half, at_random, 3072)] for half in of_half]
        rows += rows_of(f"{'random clusters' if at_random else 'consensus'} of 4, as made", made)
    for state, words in STATES.items():
        trained = consensus_runs(root, words)
        rows += rows_of(f"consensus of 4, {state}", [[measured(load_finite(run.path), run)] for run in trained])
    for one in rows:
        one["text"] = 1
    return {"rows": rows, "seeds": returns(of_seeds(seeds)), "consensus": returns(of_consensus(root))}


def returns_table(cells: list[Row], where: str) -> str:
    lines = [
        f"| returns in | latents | of what latents do | alive | {where} | least, most |",
        "| --- " + "| ---: " * 5 + "|",
    ]
    for one in cells:
        lines.append(
            f"| {one['seeds']} of 3 | {one['latents']:.0%} | {one['of_fvu']:.0%} | "
            f"{one['alive']:.0%} | **{one['returns']:.0%}** | {one['range'][0]:.0%}, {one['range'][1]:.0%} |"
        )
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    given = key_values(words, ("root", "only"))
    root = Path(given.get("root", "runs/wide"))
    if given.get("only") != "collect":
        train(root)
    found = collect(root)
    (HERE / "wide.json").write_text(json.dumps(found, indent=1) + "\n")
    tables = (
        returns_table(found["seeds"], "return in a seed of other documents"),
        returns_table(found["consensus"], "return in the other consensus"),
        table(found["rows"]),
    )
    (HERE / "wide.md").write_text("\n".join(tables))
    print((HERE / "wide.md").read_text())
    return 0


if __name__ == "__main__":
    entry(main)
