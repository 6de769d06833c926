"""What writing the activation cache costs over the model's own forward pass, and what reading it shuffled costs.

    python experiments/throughput/cache.py [cache=<a finished cache's folder>] [rounds=5] [tokens=65536] [out=…]

Writing: SmolLM2-135M's layer 12 on Wikipedia summaries, as `saemd.cache` does it, into a temporary folder; the time in
the model is taken inside the same run. Reading: every training token of `cache`, cold (the files dropped from the page
cache first) and warm, taking turns:
- `sequential`: the plain read of the same files, into one small buffer that stays in the processor's cache;
- `batches in order`: 2,048 tokens at a time, widened to float32 and scaled as in the stream, on one thread;
- `shuffled`: the stream, as training takes it, float32 divided by the scale, from its first batch on;
- `shuffled on`: the same in a stream's second epoch, warm alone: what a longer training sees.
CPU seconds count every thread, the system's part included. The first read checks the content; it is made before, not
counted. `rounds=0` leaves reading out, `tokens=0` writing; what is left out stays in the file as it was.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.order import Part, batched
from saemd.activations.disk.shards import disk_bytes
from saemd.activations.harvest import open as harvest
from saemd.composition import compose_all
from saemd.lm.workers import divided_threads

sys.path.insert(0, str(Path(__file__).parent))
from step import processor

B = 2048


def written(tokens: int) -> dict[str, float]:
    """Seconds of a whole harvest behind its first batch, and those in the model's forward pass.

    One pass at a time, on all cores: of workers that run at the same time, the seconds would overlap.
    """
    (config,) = compose_all([])
    harvest.divided_threads = lambda device: nullcontext(1)
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
    harvest.residual_stream, harvest.divided_threads = real, divided_threads
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


def in_order(cache: ActivationCache) -> int:
    whole = (Part(shard, 0, shard.tokens) for shard in cache.manifest.splits["train"].shards)
    return taken((cache.plan(parts).read(cache.factor) for parts in batched(whole, B)), cache)


def shuffled(cache: ActivationCache, epochs: int = 1) -> Iterator[torch.Tensor]:
    return iter(cache.stream(B, epochs * cache.n_train, seed=0))


def taken(batches: Iterable[torch.Tensor], cache: ActivationCache) -> int:
    return sum(disk_bytes(len(batch), cache.d_in) for batch in batches)


def second_epoch(cache: ActivationCache) -> Callable[[], int]:
    """A stream after its first epoch."""
    batches = shuffled(cache, epochs=2)
    taken(islice(batches, cache.n_train // B), cache)
    return lambda: taken(batches, cache)


# What is done before the clock starts, and what it times.
WAYS: dict[str, Callable[[ActivationCache], Callable[[], int]]] = {
    "sequential": lambda cache: lambda: sequential(cache),
    "batches in order": lambda cache: lambda: in_order(cache),
    "shuffled": lambda cache: lambda: taken(shuffled(cache), cache),
    "shuffled on": second_epoch,
}


def drop(cache: ActivationCache) -> None:
    for path in files(cache):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(cache: ActivationCache, rounds: int) -> dict[str, Any]:
    names = [f"{way} cold" for way in WAYS if way != "shuffled on"] + [f"{way} warm" for way in WAYS]
    rates: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for prepare in WAYS.values():
        prepare(cache)()
    for _ in range(rounds):
        for name in names:
            way, state = name.rsplit(" ", 1)
            if state == "cold" or name == "sequential warm":
                drop(cache)
            if name == "sequential warm":  # all warm ones find the page cache as a plain read leaves it, in large pages
                sequential(cache)
            run = WAYS[way](cache)
            start, start_cpu = time.perf_counter(), time.process_time()
            read = run()
            rates[name].append(read / (time.perf_counter() - start) / 1e6)
            cpu[name].append((time.process_time() - start_cpu) * 1e3 / (read / disk_bytes(B, cache.d_in)))
    median = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "megabytes": round(disk_bytes(cache.n_train, cache.d_in) / 1e6),
        "megabytes_per_second": {name: [round(value) for value in values] for name, values in rates.items()},
        "cpu_milliseconds_per_batch": {name: round(statistics.median(values), 3) for name, values in cpu.items()},
        "over": {
            way: {
                state: median[state] / median[f"{way} {state.split()[-1]}"]
                for state in ("shuffled cold", "shuffled warm", "shuffled on warm")
            }
            for way in ("sequential", "batches in order")
        },
    }


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    rounds, tokens = int(given.get("rounds", 5)), int(given.get("tokens", 65_536))
    out = Path(given.get("out", Path(__file__).parent / "cache.json"))
    result: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    about = {"date": date.today().isoformat(), "processor": processor(), "torch": torch.__version__}
    if "cache" in given and rounds:
        result["read"] = about | read(ActivationCache.open(given["cache"]), rounds)
    if tokens:
        result["write"] = about | written(tokens)
    print(json.dumps(result, indent=1))
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
