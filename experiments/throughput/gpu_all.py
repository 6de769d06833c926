"""Everything that has to be measured on a GPU, in one command of at most `minutes`, for a machine without a network.

    python experiments/throughput/gpu_all.py wheels=wheels out=<folder> [minutes=8] [stages=small,paper,…]

It installs the wheels, then runs, each as a process of its own with its output in <folder>/<stage>.log:

    tests      the tests that need a GPU
    small      576 → 3,072, L0 40: one SAE and a stack of 16, beside dictionary_learning (gpu.py)
    stack32    a stack of 32 at that size
    paper      2,304 → 18,432, L0 80: one SAE and a stack of 5, beside dictionary_learning
    sweep      the user's sweep: 20 SAEs of 1 M tokens at the small size, from the command to the report, on a random
               language model of SmolLM2's shape (13 layers) and random text, harvested first by a command of its own
    profile    which kernels a step of the stack of 16 spends its time in

A stage that fails, or for which no time is left, is named in the table as not measured; the others run. The wheels,
about 3 MB, are what such machines have been found to lack beside torch, lightning and transformers:

    pip wheel --no-deps --wheel-dir wheels hydra-core==1.3.8 omegaconf==2.4.0 antlr4-python3-runtime==4.9.3 \
        datasets==5.2.0 gguf beautifulsoup4 soupsieve pypi-simple mailbits pytest pluggy iniconfig \
        dictionary-learning==0.1.0 einops tqdm

`device=cpu` rehearses it in small, where times say nothing.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NEEDED = ("hydra", "omegaconf", "numba", "scipy", "pyarrow", "zstandard", "pypi_simple", "bs4", "matplotlib", "rich")
TINY = "d_in=16 d_sae=64 l0=4 batch=32 steps=2 repetitions=1 device=cpu"
SWEEP = (
    "init=mirror,uniform seed=24,42 l0=20,40,80,160,320 layer=12 tokens=1_000_000 activations.tokens=1_000_000 "
    "together=auto"
)
TINY_SWEEP = (
    "init=mirror,uniform seed=24,42 l0=4 layer=1 tokens=20_000 batch_size=128 activations.tokens=20_000 "
    "activations.heldout_tokens=4_000 together=4 accelerator=cpu"
)


def stages(out: Path, rehearsal: bool) -> dict[str, tuple[list[list[str]], float]]:
    """The commands of each stage in the order of their worth, and the seconds that they may take."""
    gpu = [sys.executable, str(HERE / "gpu.py")]
    wheels = [f"wheels={out / 'wheels'}"] if (out / "wheels").exists() else []
    saemd = [sys.executable, "-m", "saemd"]
    world = [
        "lm=hf", f"lm.name={out / 'lm'}", "corpus=files", f"corpus.path={out / 'text.jsonl'}", "logger=none",
        f"cache_root={out / 'root'}",
    ]  # fmt: skip
    sweep = ["-m", *(TINY_SWEEP if rehearsal else SWEEP).split(), *world]
    first = [word.split(",")[0] for word in sweep[1:]]  # of every list its first value: one job, for the harvest
    model = [sys.executable, str(HERE / "random_lm.py"), f"out={out}", *(["size=tiny"] if rehearsal else [])]

    def measure(name: str, words: str) -> list[str]:
        given = TINY if rehearsal else words
        return [*gpu, *given.split(), *wheels, f"out={out / name}.json"]

    def sides(names: str) -> str:
        return names if wheels else names.removesuffix(",dictionary_learning")

    tests = [
        "tests/training/test_together.py", "tests/sae/test_jumprelu_gpu.py", "tests/activations/test_online_runs.py",
        "tests/stability/test_kernels.py",
    ]  # fmt: skip
    every = sides("saemd,resident,stack,eager,loop,dictionary_learning")
    return {
        "small": ([[*measure("small", "size=small steps=200 repetitions=3"), "stack=16", f"sides={every}"]], 120),
        "paper": ([[*measure("paper", "size=paper steps=40 repetitions=3"), "stack=5", f"sides={every}"]], 150),
        "sweep": (
            [model, [*saemd, "cache", *first], [*saemd, "train", *sweep, f"run_root={out / 'runs'}"]],
            240,
        ),
        "stack32": ([[*measure("stack32", "size=small steps=200 repetitions=3"), "stack=32", "sides=stack"]], 60),
        "profile": ([[*measure("profile", "size=small steps=30"), "stack=16", "profile=stack"]], 60),
        "tests": ([[sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "gpu"]], 120),
    }  # fmt: skip


def run(name: str, commands: list[list[str]], out: Path, limit: float) -> dict[str, object]:
    """Run a stage's commands, one after another. `seconds` are those of each command."""
    seconds, code = [], 0
    with open(out / f"{name}.log", "w") as log:
        for command in commands:
            began = time.monotonic()
            try:
                left = limit - sum(seconds)
                code = subprocess.run(command, stdout=log, stderr=log, cwd=ROOT, timeout=left, check=False).returncode
            except subprocess.TimeoutExpired:
                code = 124
            seconds.append(round(time.monotonic() - began, 1))
            if code:
                break
    return {"exit_code": code, "seconds": seconds}


def row(name: str, outcome: dict[str, object], out: Path) -> str:
    """One stage's line of the table."""
    if outcome.get("exit_code") != 0:
        last = (out / f"{name}.log").read_text().strip().splitlines()[-1:] if (out / f"{name}.log").exists() else []
        return f"{name:9} not measured: {outcome} {''.join(last)[:120]}"
    found = json.loads((out / f"{name}.json").read_text()) if (out / f"{name}.json").exists() else {}
    if name in ("tests", "profile", "sweep") or not found:
        return f"{name:9} done, seconds of its commands {outcome['seconds']}"
    sides = [
        f"{side} {statistics.median(values):.3f} ms ({100 * found['of_matrix_rate'][side]:.0f} % of the matrix rate)"
        for side, values in found["milliseconds"].items()
    ]
    return f"{name:9} a step for one SAE: " + ", ".join(sides)


def main(words: list[str]) -> int:
    given = dict(word.split("=", 1) for word in words)
    if unknown := given.keys() - {"wheels", "out", "minutes", "stages", "device"}:
        sys.exit(f"error: unknown {', '.join(sorted(unknown))}; known are wheels, out, minutes, stages, device")
    out = Path(given["out"]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * float(given.get("minutes", 8))
    if "wheels" in given:
        wheels = sorted(map(str, Path(given["wheels"]).resolve().glob("*.whl")))
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*install, *wheels], check=True)
        subprocess.run([*install, "--no-build-isolation", "--editable", str(ROOT)], check=True)
        if not (out / "wheels").exists():
            (out / "wheels").symlink_to(Path(given["wheels"]).resolve())
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"missing here: {', '.join(missing)}; stages that need them will fail", flush=True)
    outcomes: dict[str, dict[str, object]] = {}
    asked = given.get("stages", "").split(",") if "stages" in given else None
    for name, (commands, limit) in stages(out, given.get("device") == "cpu").items():
        if asked and name not in asked:
            continue
        left = end - time.monotonic()
        outcomes[name] = run(name, commands, out, min(limit, left)) if left > 10 else {"exit_code": "no time was left"}
        print(row(name, outcomes[name], out), flush=True)
        (out / "outcomes.json").write_text(json.dumps(outcomes, indent=1) + "\n")
    return int(any(outcome["exit_code"] != 0 for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
