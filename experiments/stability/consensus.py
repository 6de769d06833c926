"""Does a consensus of several seeds return in seeds that saw other documents? With its controls.

    python experiments/stability/consensus.py root=runs/consensus            # about 20 minutes of two idle cores
    python experiments/stability/consensus.py root=runs/consensus only=collect

Four seeds train on each half of the documents. A consensus of 2 and of 4 seeds of one half is measured as made, and
trained on for a quarter of the tokens: with both matrices held, with its decoder held, and in all weights. So is each
seed alone, the control. `consensus.json` and the table count pairs within a half and across the halves apart.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

HERE = Path(__file__).parent
TRAIN = [
    "l0=40", "init=mirror", "init.encoder=dual", "logger=none", "corpus=packaged", "activations.tokens=1_000_000",
    "tokens=2_048_000",
]  # fmt: skip
HALVES = (("0/2", "1,2,3,4"), ("1/2", "5,6,7,8"))
STATES = {  # of a consensus: its sizes, and what the command is given
    "trained on": ((4, 2, 1), ("recipe.freeze_decoder_after=1",)),
    "as made": ((4, 2), ("recipe.lr=0",)),
    "decoder held": ((4,), ()),
    "both held": ((4,), ("recipe.freeze_encoder_after=0",)),
}
HEAD = ("dictionary", "documents", "pairs", "shared", "least, most", "mean cos dec / enc", "FVU")


def saemd(*words: str) -> None:
    print("saemd", *words, flush=True)
    subprocess.run([sys.executable, "-m", "saemd", *words], check=True)


def run(root: Path) -> None:
    for documents, seeds in HALVES:
        saemd("train", "-m", *TRAIN, f"documents={documents}", f"seed={seeds}", f"run_root={root}")
    for state, (sizes, words) in STATES.items():
        if not (place := place_of(root, state)).exists():
            shutil.copytree(root / "init=mirror", place / "init=mirror")
        for size in sizes:
            saemd("consensus", f"run_root={place}", f"seeds={size}", *words)


def place_of(root: Path, state: str) -> Path:
    """The run root of one state: `root` itself, or one beside it with the same seeds."""
    return root if state == "trained on" else root.with_name(f"{root.name}-{state.replace(' ', '-')}")


def collect(root: Path) -> list[dict[str, Any]]:
    """A row for each kind of dictionary, within a half of the documents and across."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for state in STATES:
        for record in json.loads((place_of(root, state) / "stability" / "stability.json").read_text()):
            size = record.get("folder", {}).get("of")
            if size is None and state != "trained on":
                continue  # the same seeds again
            kind = "single" if size is None else f"single, {state}" if size == "1" else f"consensus of {size}, {state}"
            groups[kind, "same" if record["same_documents"] else "other"].append(record)
    return [
        {
            "dictionary": kind,
            "documents": documents,
            "pairs": len(records),
            "shared": mean(record["shared"] for record in records),
            "least": min(record["shared"] for record in records),
            "most": max(record["shared"] for record in records),
            "mean_cos_dec": mean(record["mean_cos_dec"] for record in records),
            "mean_cos_enc": mean(record["mean_cos_enc"] for record in records),
            "fvu": mean(mean(record["fvu"]) for record in records),
        }
        for (kind, documents), records in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0]))
    ]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "| --- | --- " + "| ---: " * 5 + "|"]
    for row in rows:
        shares = f"{row['shared']:.1%} | {row['least']:.1%}, {row['most']:.1%}"
        cosines = f"{row['mean_cos_dec']:.2f} / {row['mean_cos_enc']:.2f}"
        lines.append(
            f"| {row['dictionary']} | {row['documents']} | {row['pairs']} | {shares} | {cosines} | {row['fvu']:.3f} |"
        )
    return "\n".join(lines)


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    if unknown := given.keys() - {"root", "only"}:
        sys.exit(f"error: {min(unknown)}={given[min(unknown)]}: known are root, only")
    root = Path(given.get("root", "runs/consensus"))
    if given.get("only") != "collect":
        run(root)
    rows = collect(root)
    (HERE / "consensus.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
