"""Harvesting with one process on all cores, and with one process a core: one cache each, of the same bytes.

    python experiments/throughput/ranks.py [tokens=65536] [pairs=3] [processes=2] [out=…]

SmolLM2-135M's layer 12 on Wikipedia summaries, in 16 shards, into a temporary folder. Both take turns.
Processes load the model first and then start together; time counts from there to the end of the last one. CPU time is
that of all threads of all processes. The caches of both ways must be the same bytes, or the script fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from subprocess import DEVNULL, PIPE

import torch

from saemd.activations.config import ActivationsConfig
from saemd.activations.harvest.open import LMOnText, describe
from saemd.activations.harvest.write import begin, joined, write_shards
from saemd.composition import compose_all
from saemd.threads import use_threads

sys.path.insert(0, str(Path(__file__).parent))
from common import processor

SHARDS = 16  # of one cache


@dataclass(frozen=True)
class Written:
    """One harvest: seconds of wall and of CPU time, CPU seconds of each process, and the files' digest."""

    seconds: float
    cpu_seconds: list[float]
    digest: str


def work(folder: Path, threads: int, tokens: int) -> None:
    """One process: load the model, say so, wait for the start, write the cache with the others, print the CPU time."""
    use_threads(threads)
    (config,) = compose_all([])
    root = Path(config.cache_root)
    wanted = ActivationsConfig(tokens=tokens, heldout_tokens=256, shard_tokens=tokens // SHARDS, lm_dtype="bfloat16")
    origin = describe(config.lm, config.layer, config.corpus, wanted, root)
    lm = LMOnText(config.lm, config.layer, config.corpus, wanted, root, "cpu", wanted.lm_dtype)
    lm.forward(torch.zeros(1, wanted.context_length, dtype=torch.int64))
    print("loaded", flush=True)
    sys.stdin.readline()
    began = time.process_time()
    with joined(folder, lambda: None), lm.workers() as workers:
        ledger = begin(folder, origin, wanted, lm.contexts, lm.dtype)
        write_shards(ledger, wanted, lm.contexts, lm.forward, workers)
    print(time.process_time() - began, flush=True)


def harvest(processes: int, threads: int, tokens: int) -> Written:
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) / "cache"
        command = [sys.executable, __file__, "work", str(folder), str(threads), str(tokens)]
        start = partial(subprocess.Popen, command, text=True, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
        workers = [start() for _ in range(processes)]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "loaded\n"
        began = time.perf_counter()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        cpu_seconds = [float(worker.communicate()[0]) for worker in workers]
        seconds = time.perf_counter() - began
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()
    return Written(seconds, cpu_seconds, digest)


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    tokens, pairs, processes = (
        int(given.get(key, n)) for key, n in (("tokens", 65_536), ("pairs", 3), ("processes", 2))
    )
    out = Path(given.get("out", Path(__file__).parent / "ranks.json"))
    cores = len(os.sched_getaffinity(0))
    one, several, load = list[Written](), list[Written](), list[float]()
    for _ in range(pairs):
        load.append(round(os.getloadavg()[0], 1))
        one.append(harvest(1, cores, tokens))
        several.append(harvest(processes, max(1, cores // processes), tokens))
        assert one[-1].digest == several[-1].digest, "the caches differ"
        wall = [a.seconds / b.seconds for a, b in zip(one, several, strict=True)]
        cpu = [sum(a.cpu_seconds) / sum(b.cpu_seconds) for a, b in zip(one, several, strict=True)]
        result = {
            "date": date.today().isoformat(),
            "processor": processor(),
            "cores": cores,
            "torch": torch.__version__,
            "tokens": tokens,
            "processes": processes,
            "load_before": load,
            "one_seconds": [round(a.seconds, 1) for a in one],
            "several_seconds": [round(b.seconds, 1) for b in several],
            "one_cpu_seconds": [round(sum(a.cpu_seconds), 1) for a in one],
            "several_cpu_seconds": [[round(s, 1) for s in b.cpu_seconds] for b in several],
            "times_as_fast": [round(ratio, 2) for ratio in wall],
            "median_times_as_fast": round(median(wall), 2),
            "cpu_time_of_one_over_several": [round(ratio, 2) for ratio in cpu],
        }
        print(json.dumps(result), flush=True)
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(sys.argv[1:])
