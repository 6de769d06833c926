"""What writing the activation cache costs over the model's own forward pass, and what reading it shuffled costs.

    python experiments/throughput/cache.py [tokens=65536] [cache=<a finished cache's folder>] [out=cache.json]

Writing: SmolLM2-135M's layer 12 on Wikipedia summaries, as `saemd.cache` does it, into a temporary folder; the time in
the model is taken inside the same run. Reading: every training token of `cache` in shuffled batches of 2,048, as
float32 divided by the scale, against a plain sequential read of the same files into one buffer; cold (the files dropped
from the page cache first) and warm, taking turns. The first read checks the content; it is made before, not counted.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from saemd.activations import harvest
from saemd.activations.cache import ActivationCache
from saemd.activations.config import ActivationsConfig
from saemd.activations.shards import disk_bytes
from saemd.activations.stream import ActivationStream
from saemd.cli import compose_all, register

sys.path.insert(0, str(Path(__file__).parent))
from step import processor

B, ROUNDS = 2048, 3


def written(tokens: int) -> dict[str, float]:
    """Seconds of a whole harvest behind its first batch, and those in the model's forward pass."""
    register()
    (config,) = compose_all([])
    in_model, began = [0.0], [0.0]
    real = harvest.residual_stream

    def timed(*args: Any) -> torch.Tensor:
        if not began[0]:
            real(*args)  # the first pass pays for allocations
            began[0] = time.perf_counter()
        start = time.perf_counter()
        found = real(*args)
        in_model[0] += time.perf_counter() - start
        return found

    harvest.residual_stream = timed
    wanted = ActivationsConfig(tokens=tokens, heldout_tokens=B, shard_tokens=16_384)
    with tempfile.TemporaryDirectory() as aside:
        for name in ("models", "packages"):  # the model and the text are there already
            (Path(aside) / name).symlink_to(Path(config.cache_root) / name)
        harvest.ensure_cache(config.lm, config.layer, config.corpus, wanted, Path(aside))
    total = time.perf_counter() - began[0]
    harvest.residual_stream = real
    return {"tokens": tokens, "seconds": total, "in_model": in_model[0], "over_forward": total / in_model[0] - 1}


def files(cache: ActivationCache) -> list[Path]:
    return [cache.path / shard.file for shard in cache.manifest.splits["train"].shards]


def sequential(cache: ActivationCache) -> int:
    buffer, read = bytearray(1 << 22), 0
    for path in files(cache):
        with open(path, "rb", buffering=0) as file:
            while got := file.readinto(buffer):
                read += got
    return read


def shuffled(cache: ActivationCache) -> int:
    stream = ActivationStream(cache, B, cache.n_train, seed=0, window_tokens=262_144, prefetch_batches=4)
    return sum(disk_bytes(len(batch), cache.d_in) for batch in stream)


def drop(cache: ActivationCache) -> None:
    for path in files(cache):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(cache: ActivationCache) -> dict[str, Any]:
    shuffled(cache)
    ways: dict[str, Callable[[ActivationCache], int]] = {"sequential": sequential, "shuffled": shuffled}
    rates: dict[str, list[float]] = {f"{way} {state}": [] for way in ways for state in ("cold", "warm")}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            for state in ("cold", "warm"):
                if state == "cold":
                    drop(cache)
                start = time.perf_counter()
                rates[f"{way} {state}"].append(run(cache) / (time.perf_counter() - start) / 1e6)
    median = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "megabytes": round(disk_bytes(cache.n_train, cache.d_in) / 1e6),
        "megabytes_per_second": {name: [round(value) for value in values] for name, values in rates.items()},
        "of_sequential": {
            state: median[f"shuffled {state}"] / median[f"sequential {state}"] for state in ("cold", "warm")
        },
    }


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    result: dict[str, Any] = {"date": date.today().isoformat(), "processor": processor(), "torch": torch.__version__}
    if "cache" in given:
        result["read"] = read(ActivationCache.open(given["cache"]))
    result["write"] = written(int(given.get("tokens", 65_536)))
    print(json.dumps(result, indent=1))
    Path(given.get("out", Path(__file__).parent / "cache.json")).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
