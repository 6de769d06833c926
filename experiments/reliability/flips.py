"""One flipped bit in each kind of file, and what the command that reads it says."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from commands import run
from trees import contents
from world import Scenario

# kind: the scenario whose files it is of, and a pattern of the file below its folder
KINDS = {
    "manifest of a cache": ("training", "cache/activations/*/manifest.json"),
    "shard of a cache": ("training", "cache/activations/*/train-*.bin"),
    "config.yaml": ("comparison", "runs/init=*/l0=4/seed=0/config.yaml"),
    "metrics.json": ("comparison", "runs/init=*/l0=4/seed=0/metrics.json"),
    "latents.npz": ("comparison", "runs/init=*/l0=4/seed=0/latents.npz"),
    "cfg.json": ("comparison", "runs/init=*/l0=4/seed=0/cfg.json"),
    "sae_weights.safetensors": ("comparison", "runs/init=*/l0=4/seed=0/sae_weights.safetensors"),
    "last.ckpt": ("resumed", "runs/init=*/l0=4/seed=*/last.ckpt"),
    "matching of a pair": ("compared", "runs/stability/pairs/*.npz"),
    "measures of a pair": ("compared", "runs/stability/measures/*.json"),
    "random floor": ("compared", "runs/stability/floors/*.json"),
    "score of a run": ("evaluated", "runs/init=*/l0=4/seed=0/quality/core.json"),
    "clean pass of the language model": ("rescored", "cache/quality/*/*/clean-*.safetensors"),
}


def flip_all(scenarios: dict[str, Scenario], work: Path, kept: Path, n: int, draw: random.Random) -> dict[str, Any]:
    """For each kind: of `n` flips, how many were reported, and how many changed nothing in what the command wrote."""
    results: dict[str, Any] = {}
    for state in dict.fromkeys(state for state, _ in KINDS.values()):
        base = {"resumed": "training", "compared": "comparison", "evaluated": "evaluation", "rescored": "evaluation"}
        scenario = scenarios[base.get(state, state)]
        _prepare(state, scenario, work, kept)
        assert run(scenario.command).code == 0
        whole = contents(work)
        for kind, (of, pattern) in KINDS.items():
            if of == state:
                results[kind] = _flips(scenario, pattern, whole, work, kept, n, draw)
                print(f"flip  {kind:34} {results[kind]}", flush=True)
    return results


def _prepare(state: str, scenario: Scenario, work: Path, kept: Path) -> None:
    """Bring `work` into the state before the command that reads, and keep a copy of it."""
    _clear(work)
    for words in scenario.before:
        assert run(words).code == 0
    if state in ("resumed", "compared", "evaluated", "rescored"):
        assert run(scenario.command).code == 0
    if state == "resumed":  # as a kill leaves it behind its last checkpoint
        for path in work.glob("runs/init=*/l0=*/seed=*/metrics.json"):
            path.unlink()
    if state == "rescored":
        for path in work.glob("runs/init=*/l0=*/seed=*/quality/core.json"):
            path.unlink()
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(work, kept)


def _flips(
    scenario: Scenario, pattern: str, whole: dict[str, str], work: Path, kept: Path, n: int, draw: random.Random
) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "flips": n,
        "reported": 0,
        "made_again": 0,
        "harmless": 0,
        "unnoticed": 0,
        "tracebacks": 0,
    }
    for _ in range(n):
        _clear(work)
        shutil.copytree(kept, work, dirs_exist_ok=True)
        path = draw.choice(sorted(work.glob(pattern)))
        content, place, bit = bytearray(path.read_bytes()), draw.randrange(path.stat().st_size), draw.randrange(8)
        content[place] ^= 1 << bit
        path.write_bytes(content)
        name = path.relative_to(work).as_posix()
        ended = run(scenario.command)
        now = contents(work, but=name) if ended.code == 0 else {}
        same = ended.code == 0 and all(now.get(key) == value for key, value in whole.items() if key != name)
        said = path.name in ended.said or (path.parent.name in ended.said and ended.code != 0)
        counts["tracebacks"] += ended.has_traceback
        outcome = "reported" if ended.code else "made_again" if same and said else "harmless" if same else "unnoticed"
        counts[outcome] += 1
        if outcome == "unnoticed" or ended.has_traceback:
            counts.setdefault("examples", []).append(
                {"byte": place, "bit": bit, "file": name, "said": ended.said[-800:]}
            )
    return counts


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
