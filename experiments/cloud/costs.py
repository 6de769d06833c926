"""What a cache and a run in an S3 bucket transfer, counted at s3fs's calls against a server on the loopback.

    make test-store     # once: makes .venv-s3, with the client and the server
    PYTHONPATH=. .venv-s3/bin/python experiments/cloud/costs.py > experiments/cloud/costs.json

The activations are random, in shards of SmolLM2-135M's size (65,536 tokens of width 576). Times on the loopback say
nothing of a network and are left out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import s3fs
import torch
from moto.server import ThreadedMotoServer
from torch import Tensor

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk.manifest import SPLITS, Origin, SplitName
from saemd.activations.disk.remote import RemoteCache, fetch_records, open_cache
from saemd.activations.harvest.write import begin, write_shards
from saemd.files import replacing
from saemd.remote.urls import CACHE_ROOT, RUN_ROOT, local_folder
from saemd.runs import held

D, LENGTH, BATCH = 576, 256, 2048
CONFIG = ActivationsConfig(tokens=4 * 65_000, heldout_tokens=4096, window_tokens=131_072)
counts: Counter[str] = Counter()


class Counted(s3fs.S3FileSystem):
    """Counts requests by their name, and the bytes that they carry."""

    async def _call_s3(self, method: str, *akwargs: Any, **kwargs: Any) -> Any:
        given = {**(akwargs[0] if akwargs and isinstance(akwargs[0], dict) else {}), **kwargs}
        counts[method] += 1
        answer = await super()._call_s3(method, *akwargs, **kwargs)
        if isinstance(body := given.get("Body"), bytes | bytearray | memoryview):
            counts["bytes sent"] += len(body)
        if method == "get_object":
            counts["bytes received"] += answer["ContentLength"]
        return answer


def taken() -> dict[str, int]:
    """What was counted since the last call."""
    result = dict(sorted(counts.items()))
    counts.clear()
    return result


def contexts(first: int) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in iter(int, 1):
        yield torch.full((LENGTH,), first), torch.arange(LENGTH) > 0


def forward(ids_BT: Tensor) -> Tensor:
    return torch.randn(*ids_BT.shape, D)


def write(folder: Path) -> None:
    values = {key: getattr(CONFIG, key) for key in ("context_length", "tokens", "heldout_tokens", "shard_tokens")}
    origin = Origin("random", "a", 1, D, "none", "b", outlier_factor=None, lm_dtype="float32", **values)
    sources: dict[SplitName, Any] = {split: lambda first=i: contexts(first) for i, split in enumerate(SPLITS)}
    write_shards(begin(folder, origin, CONFIG, sources, "float32"), CONFIG, sources, forward)


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    import fsspec

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.get_host_and_port()[1]}", "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    fsspec.register_implementation("s3", Counted, clobber=True)
    fsspec.filesystem("s3").mkdir("bucket")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["SAEMD_LOCAL"] = f"{home}/writer"
        folder = local_folder(CACHE_ROOT, "s3://bucket/caches") / "activations" / "random"
        folder.parent.mkdir(parents=True)
        taken()
        write(folder)
        result["harvest"] = taken()
        os.environ["SAEMD_LOCAL"] = f"{home}/reader"
        folder = local_folder(CACHE_ROOT, "s3://bucket/caches") / "activations" / "random"
        fetch_records(folder)
        cache = open_cache(folder, CONFIG)
        assert isinstance(cache, RemoteCache)
        result["shards"] = {name: len(split.shards) for name, split in cache.manifest.splits.items()}
        result["opening"] = taken()
        cache._ahead_tokens, ahead = 0, cache._ahead_tokens  # the first batch alone
        stream = iter(cache.stream(BATCH, BATCH, seed=0))
        next(stream)
        result["first batch"] = taken()
        cache._ahead_tokens = ahead
        for _ in cache.stream(BATCH, CONFIG.tokens, seed=0):
            pass
        result["the rest of the first epoch"] = taken()
        for _ in open_cache(folder, CONFIG).stream(BATCH, CONFIG.tokens, seed=1):
            pass
        result["another run's epoch"] = taken()
        run = local_folder(RUN_ROOT, "s3://bucket/runs") / "init=a"
        with held(run):
            result["claim"] = taken()
            with replacing(run / "last.ckpt") as aside:
                aside.write_bytes(bytes(120_000_000))
            result["a checkpoint of 120 MB"] = taken()
        result["giving the claim back"] = taken()
    server.stop()
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
