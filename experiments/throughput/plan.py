"""`saemd plan` against what it foretold: plan a small sweep on SmolLM2, run it, and compare the seconds.

    python experiments/throughput/plan.py root=/tmp/plan                            # seconds of the wall's clock
    python experiments/throughput/plan.py root=/tmp/plan clock=processor threads=1  # beside other work
    python experiments/throughput/plan.py root=/tmp/plan clock=processor threads=1 \\
        init=uniform seed=24 tokens=40_960 activations.tokens=24_576                # a smaller sweep

`root` has to be a new folder; packages and models of `~/.cache/saemd` are linked into it. `clock=processor` counts
processor seconds in the plan's samples and in the sweep alike, so that other programs change neither much.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from common import processor

from saemd import jobs, seeds
from saemd.cli import quiet_warnings
from saemd.composition import compose_all
from saemd.planning import estimate, measure, trial
from saemd.planning.work import find_work
from saemd.threads import use_threads
from saemd.training import run

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
SWEEP = {
    "init": "mirror,uniform", "seed": "24,42", "tokens": "204_800", "corpus": "wiki", "logger": "none", "threads": "2",
    "activations.tokens": "32_768", "activations.heldout_tokens": "8192",
}  # fmt: skip


def timed(owner: Any, name: str, clock: Callable[[], float]) -> list[float]:
    """Let `owner.name` note the seconds of every call."""
    seconds, function = [], getattr(owner, name)

    def call(*args: Any, **keys: Any) -> Any:
        began = clock()
        try:
            return function(*args, **keys)
        finally:
            seconds.append(clock() - began)

    setattr(owner, name, call)
    return seconds


def total(parts: list[float | None]) -> float:
    return sum(part for part in parts if part is not None)


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    sweep = {**SWEEP, **{key: given[key] for key in given.keys() & SWEEP.keys()}}
    root, name = Path(given["root"]).absolute(), given.get("clock", "wall")
    clock, loads = CLOCKS[name], [os.getloadavg()[0]]
    (root / "cache").mkdir(parents=True)
    for folder in ("packages", "models"):
        (root / "cache" / folder).symlink_to(Path.home() / ".cache" / "saemd" / folder)
    command = [
        "-m",
        *(f"{key}={value}" for key, value in sweep.items()),
        f"cache_root={root / 'cache'}",
        f"run_root={root / 'runs'}",
    ]
    quiet_warnings()
    configs = compose_all(command)
    use_threads(configs[0].threads)
    began = time.perf_counter()
    for module in (measure, trial):
        module.time = SimpleNamespace(perf_counter=clock)  # type: ignore[attr-defined]
    planned = estimate.measured(find_work(configs, is_sweep=True), estimate.Rates())
    measuring = time.perf_counter() - began
    loads.append(os.getloadavg()[0])
    harvests, job_seconds = timed(run, "open_source", clock), timed(jobs, "run", clock)
    compared, concluded = timed(seeds.CompareSiblings, "act", clock), timed(jobs, "conclude", clock)
    sys.argv[1:] = command
    assert jobs.main(command) == 0
    loads.append(os.getloadavg()[0])
    trained = [job - harvest - pair for job, harvest, pair in zip(job_seconds, harvests, compared, strict=True)]
    measured = {"harvest": sum(harvests), "jobs": trained, "training": sum(trained)}
    measured["comparison"] = sum(compared) + sum(concluded)
    foretold: dict[str, Any] = {"harvest": total(planned.harvests), "jobs": planned.jobs}
    foretold |= {"training": total(planned.jobs), "comparison": total(planned.comparisons)}
    parts = ("harvest", "training", "comparison")
    result = {
        "date": date.today().isoformat(), "processor": processor(), "threads": torch.get_num_threads(), "clock": name,
        "load": loads, "measuring_seconds": measuring, "sweep": sweep, "planned": foretold,
        "measured": measured, "ratio": {part: foretold[part] / measured[part] for part in parts},
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    out = Path(given.get("out", Path(__file__).parent / f"plan-{name}.json"))
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
