"""Memory and time that reading takes at the paper's size: 500 million tokens of width 2,304, which are 2.3 TB.

    python experiments/throughput/memory.py [folder=<on a disk with sparse files>] [out=memory.json]

The real code on a cache whose shards are sparse files: they take no room on the disk and read as zeros, of which the
manifest has the true checksums. So everything happens as with real data, checks included, but for the disk's own time.
Once with the default settings and once with `experiment=paper`; each part's peak is that of the whole process, in MB
(10⁶ bytes), reset before it, and `start` is what the imports alone take.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, cast

import torch

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import MANIFEST, Manifest, Origin, Outliers, Shard, Split, SplitName, write_json
from saemd.activations.disk.shards import disk_bytes
from saemd.activations.disk.statistics import Statistics
from saemd.activations.streams.stream import BatchStream
from saemd.composition import compose_all
from saemd.training.given import SAMPLE_TOKENS

TOKENS, D, BATCHES = 500_000_000, 2304, 300
SETTINGS = {"default": [], "experiment=paper": ["experiment=paper"]}


def hollow_cache(folder: Path, config: ActivationsConfig) -> None:
    """A finished cache of zeros, as the writer would lay it out: a BOS is left out of every context."""
    most = config.shard_tokens // config.context_length * (config.context_length - 1)
    sums: dict[int, str] = {}

    def split(name: SplitName, tokens: int) -> Split:
        found = Split(tokens=tokens)
        while tokens:
            n = min(most, tokens)
            if n not in sums:
                sums[n] = hashlib.sha256(bytes(disk_bytes(n, D))).hexdigest()
            found.shards.append(Shard(f"{name}-{len(found.shards):05d}.bin", n, sums[n]))
            with open(folder / found.shards[-1].file, "wb") as file:
                file.truncate(disk_bytes(n, D))
            tokens -= n
        return found

    origin = Origin(
        "zeros", "", 12, D, "zeros", "", config.context_length, TOKENS, config.heldout_tokens, config.shard_tokens,
        None, "float32",
    )  # fmt: skip
    splits: dict[SplitName, Split] = {
        "train": split("train", TOKENS), "heldout": split("heldout", config.heldout_tokens),
    }  # fmt: skip
    statistics = Statistics([1 / 3] * D, 1.0, {"0.5": 1.0})
    write_json(
        folder / MANIFEST,
        Manifest(origin.fingerprint, origin, "float32", Outliers(None, 1.0, None), splits, statistics, {}),
    )


class Account:
    """Seconds and peak memory of one part after another."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {"start": self._memory()}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
        start = time.perf_counter()
        yield
        self.parts[name] = {"seconds": round(time.perf_counter() - start, 3), **self._memory()}

    @staticmethod
    def _memory() -> dict[str, float]:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {
            name: round(int(lines[key].split()[0]) * 1024 / 1e6)
            for name, key in (("peak_mb", "VmHWM"), ("of_files_mb", "RssFile"))
        }


def measured(folder: Path, batch_size: int, config: ActivationsConfig) -> dict[str, Any]:
    account = Account()
    with account.part("open"):
        reading = {"window_tokens": config.window_tokens, "prefetch_batches": config.prefetch_batches}
        cache = ActivationCache.open(folder, verify=True, **reading)

    def stream() -> BatchStream:
        return cache.stream(batch_size, TOKENS, seed=0)

    with account.part("first batch"):
        first = stream()
        iterator = iter(first)
        next(iterator)
    with account.part(f"{BATCHES} batches"):
        for _ in range(BATCHES):
            assert not next(iterator).any()
    with account.part("state"):
        state = first.state_dict()
        assert state["batches"] == BATCHES + 1
    iterator.close()  # type: ignore[attr-defined]
    state["batches"] = TOKENS // batch_size // 2
    with account.part("resumed in the middle, first batch"):
        resumed = stream()
        resumed.load_state_dict(state)
        iterator = iter(resumed)
        next(iterator)
    with account.part(f"resumed, {BATCHES} batches"):
        for _ in range(BATCHES):
            next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    with account.part(f"sample of {SAMPLE_TOKENS}"):
        assert cache.sample(SAMPLE_TOKENS).shape == (SAMPLE_TOKENS, D)
    with account.part("held-out"):
        assert sum(len(batch) for batch in cache.heldout(batch_size)) == config.heldout_tokens
    shards = sum(len(split.shards) for split in cache.manifest.splits.values())
    return {
        "batch_size": batch_size,
        "window_tokens": config.window_tokens,
        "prefetch_batches": config.prefetch_batches,
        "shards": shards,
        "manifest_bytes": (folder / MANIFEST).stat().st_size,
        "parts": account.parts,
    }


def alone(run: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """In a process of its own, so that one setting's memory is not the next one's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, arguments)


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    result: dict[str, Any] = {"date": date.today().isoformat(), "torch": torch.__version__, "tokens": TOKENS, "d_in": D}
    for name, overrides in SETTINGS.items():
        (config,) = compose_all(overrides)
        with tempfile.TemporaryDirectory(dir=given.get("folder")) as folder:
            hollow_cache(Path(folder), cast(ActivationsConfig, config.activations))
            result[name] = alone(measured, Path(folder), config.batch_size, config.activations)
        print(name, json.dumps(result[name], indent=1), flush=True)
    Path(given.get("out", Path(__file__).parent / "memory.json")).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
