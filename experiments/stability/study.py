"""What makes features come back: the same recipe from starts that seeds share and starts that they do not.

    python experiments/stability/study.py scale=small root=runs/study            # make study: two cores, within an hour
    python experiments/stability/study.py scale=gpu root=runs/study inputs=<folder of pack.py>
    python experiments/stability/study.py scale=small root=runs/study starts=mirror,uniform_shared,uniform
    python experiments/stability/study.py scale=small root=runs/study only=collect        # the tables alone

Each sweep is one `saemd train -m …` into the same run root, so that the report at its end has all of them; the command
again goes on where it was stopped. Then `collect` writes the scale's JSON and figure beside this file. `starts` leaves
out all others, and `recipe=stable` with them. Further keys (`tokens=…`) go to every sweep, behind the scale's own.

All seeds train on documents of their own, and all starts have the same kind of encoder (dual), so that two lines of the
figure differ in the start alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHARED = "init=mirror,uniform_shared,random_mirrored_shared,mirror_rotated_shared"
OWN = "init=uniform,random_mirrored,mirror_noise"
STABLE = "init=mirror,random_mirrored recipe=stable folder.recipe=stable"
COMMON = "l0=40 init.encoder=dual logger=none"
SCALES = {
    "small": {
        "common": f"{COMMON} corpus=packaged documents=disjoint seed=24,42 activations.tokens=1_000_000 "
        "tokens=2_048_000 snapshots=[256_000,512_000,1_024_000]",
        "sweeps": [SHARED, OWN, STABLE],
    },
    "gpu": {
        "common": f"{COMMON} together=auto activations=memory activations.device=gpu activations.tokens=14_000_000 "
        "tokens=32_768_000 snapshots=[1_024_000,4_096_000,16_384_000]",
        "sweeps": [
            f"documents={part} seed={seeds} {sweep}"
            for part, seeds in (("0/2", "1,2,3"), ("1/2", "4,5,6"))
            for sweep in (SHARED, OWN, STABLE)
        ],
    },
}
KEPT = (
    "init", "l0", "parts", "seeds", "tokens", "shared", "shared_alive", "same_match", "mean_cos_dec",
    "mean_cos_enc", "drift_dec", "drift_enc", "alive", "fvu", "random_floor",
)  # fmt: skip


def unpack(inputs: Path, root: Path) -> list[str]:
    """The words for the language model and the text that `pack.py` packed."""
    from saemd.lm.packaged import convert
    from saemd.once import made_once

    model = made_once((root / "lm").resolve(), lambda target: convert(inputs / "model.gguf", target, "SmolLM2-135M"))
    return ["lm=hf", f"lm.name={model}", "corpus=files", f"corpus.path={(inputs / 'text.jsonl.zst').resolve()}"]


def chosen(scale: str, starts: str | None) -> list[str]:
    """The sweeps of a scale, or what they have of these starts with the default recipe."""
    if starts is None:
        return list(SCALES[scale]["sweeps"])
    kept = []
    for sweep in SCALES[scale]["sweeps"]:
        words = sweep.split()
        (init,) = (word for word in words if word.startswith("init="))
        names = [name for name in init.removeprefix("init=").split(",") if name in starts.split(",")]
        if names and "recipe=stable" not in words:
            kept.append(" ".join(f"init={','.join(names)}" if word == init else word for word in words))
    return kept


def run(scale: str, root: Path, words: list[str], starts: str | None) -> dict[str, float]:
    """Train every sweep of a scale; the seconds that each took."""
    seconds = {}
    for sweep in chosen(scale, starts):
        began = time.monotonic()
        command = [*str(SCALES[scale]["common"]).split(), *sweep.split(), *words, f"run_root={root}"]
        print("saemd train -m", *command, flush=True)
        subprocess.run([sys.executable, "-m", "saemd", "train", "-m", *command], check=True)
        seconds[sweep] = round(time.monotonic() - began)
    return seconds


def collect(scale: str, root: Path, seconds: dict[str, float]) -> None:
    """Write <scale>.json (a row per start and number of tokens) and <scale>.png beside this file."""
    stability = root / "stability"
    result: dict[str, Any] = {
        "seconds": seconds,  # of each sweep that this call trained
        "cells": json.loads((stability / "cells.json").read_text()),
        "snapshots": [kept(record) for record in json.loads((stability / "snapshots.json").read_text())],
        "pairs": [kept(record) for record in json.loads((stability / "stability.json").read_text())],
    }
    (HERE / f"{scale}.json").write_text(json.dumps(result, indent=1) + "\n")
    if (figure := stability / "figures" / "tokens.png").is_file():
        shutil.copyfile(figure, HERE / f"{scale}.png")
    print(HERE / f"{scale}.json")


def kept(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key in KEPT}


def main(words: list[str]) -> None:
    own = ("scale", "root", "inputs", "only", "starts")
    given = dict(word.split("=", 1) for word in words if word.split("=", 1)[0] in own)
    more = [word for word in words if word.split("=", 1)[0] not in own]
    if given.get("scale") not in SCALES:
        sys.exit(f"error: scale={given.get('scale')}: known are {', '.join(SCALES)}")
    root, seconds = Path(given.get("root", "runs/study")), {}
    if given.get("only") != "collect":
        root.mkdir(parents=True, exist_ok=True)
        inputs = unpack(Path(given["inputs"]), root) if "inputs" in given else []
        seconds = run(given["scale"], root, [*inputs, *more], given.get("starts"))
    collect(given["scale"], root, seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
