"""Harvesting on a CPU: one worker a core, beside one pass on all cores as before; in peace and beside busy processes.

    python experiments/throughput/harvest.py [tokens=16384] [pairs=3] [busy=0,1,2] [out=…]

SmolLM2-135M's layer 12 on Wikipedia summaries, written into a temporary folder as `saemd.cache` does it, with the model
loaded before. Both ways take turns; each pair gives one ratio. `busy` counts processes that only compute, started here
and pinned nowhere. The shards of both ways must be the same bytes, or the script fails.
A number of busy processes that is left out of `busy` stays in the file as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk.manifest import read_manifest
from saemd.activations.harvest.open import LMOnText, describe
from saemd.activations.harvest.write import begin, write_shards
from saemd.composition import compose_all

sys.path.insert(0, str(Path(__file__).parent))
from common import processor


@dataclasses.dataclass(frozen=True)
class Written:
    """One harvest: tokens a second of wall and of CPU time, and the shards' digests."""

    rate: float
    cpu_rate: float
    shards: list[str]


def harvest(lm: LMOnText, config: Any, wanted: ActivationsConfig, *, in_workers: bool) -> Written:
    root = Path(config.cache_root)
    origin = describe(config.lm, config.layer, config.corpus, wanted, root)
    with tempfile.TemporaryDirectory() as aside, contextlib.ExitStack() as opened:
        workers = opened.enter_context(lm.workers()) if in_workers else 1
        began, cpu = time.perf_counter(), time.process_time()
        ledger = begin(Path(aside) / "cache", origin, wanted, lm.contexts, lm.dtype)
        write_shards(ledger, wanted, lm.contexts, lm.forward, workers)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        splits = read_manifest(Path(aside) / "cache").splits.values()
    tokens = sum(split.tokens for split in splits)
    return Written(tokens / seconds, tokens / cpu_seconds, [shard.sha256 for split in splits for shard in split.shards])


@contextlib.contextmanager
def beside(n: int) -> Generator[None]:
    """In the block, `n` processes compute without end."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    tokens, pairs = int(given.get("tokens", 16_384)), int(given.get("pairs", 3))
    out = Path(given.get("out", Path(__file__).parent / "harvest.json"))
    (config,) = compose_all([])
    wanted = ActivationsConfig(tokens=tokens, heldout_tokens=256, shard_tokens=8192)
    lm = LMOnText(config.lm, config.layer, config.corpus, wanted, Path(config.cache_root), "cpu", wanted.lm_dtype)
    lm.forward(torch.zeros(1, wanted.context_length, dtype=torch.int64))  # loads the model
    about = {"date": date.today().isoformat(), "processor": processor(), "torch": torch.__version__, "tokens": tokens}
    saved = json.loads(out.read_text())["beside"] if out.is_file() else {}
    result: dict[str, Any] = {**about, "threads": torch.get_num_threads(), "lm_dtype": lm.dtype, "beside": saved}
    for busy in map(int, given.get("busy", "0,1,2").split(",")):
        before, workers = list[Written](), list[Written]()
        with beside(busy):
            for _ in range(pairs):
                before.append(harvest(lm, config, wanted, in_workers=False))
                workers.append(harvest(lm, config, wanted, in_workers=True))
                assert before[-1].shards == workers[-1].shards, "the shards differ"
        ratios = [b.rate / a.rate for a, b in zip(before, workers, strict=True)]
        result["beside"][str(busy)] = {
            "before_tokens_per_second": [round(a.rate) for a in before],
            "workers_tokens_per_second": [round(b.rate) for b in workers],
            "before_tokens_per_cpu_second": [round(a.cpu_rate) for a in before],
            "workers_tokens_per_cpu_second": [round(b.cpu_rate) for b in workers],
            "ratios": [round(ratio, 2) for ratio in ratios],
            "median_ratio": round(median(ratios), 2),
        }
        print(json.dumps({busy: result["beside"][str(busy)]}), flush=True)
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
