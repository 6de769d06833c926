"""An activation cache in a store: what is written there, and what is read of it."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from saemd.activations.disk import remote
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import MANIFEST, PROGRESS
from saemd.activations.disk.remote import RemoteCache, fetch_records, open_cache
from saemd.errors import UserError
from saemd.files import write_text
from saemd.remote import mirror, store
from tests.activations.caches import CONFIG, D, forward, make, numbers, write
from tests.remote.conftest import objects

Folder = Callable[[], Path]
URL = "memory://bucket/caches/activations/tiny"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BLOCK_BYTES", 512)  # 32 tokens; a shard has 15 blocks


@pytest.fixture
def local(tmp_path: Path) -> ActivationCache:
    return make(tmp_path / "cache")


@pytest.fixture
def written(folder: Folder, machine: Callable[[str], None]) -> str:
    """The URL of a cache that another machine has written."""
    machine("writer")
    write(folder())
    machine("reader")
    return URL


def opened(folder: Path, **changes: object) -> ActivationCache:
    fetch_records(folder)
    return open_cache(folder, dataclasses.replace(CONFIG, window_tokens=512, **changes))  # type: ignore[arg-type]


def on_disk(folder: Path) -> int:
    sizes = []
    for path in folder.glob("*.bin"):
        with suppress(FileNotFoundError):  # a thread has just completed it: the shard's name is counted next time
            sizes.append(path.stat().st_size)
    return sum(sizes)


def test_the_store_has_the_bytes_of_a_cache_on_disk(written: str, local: ActivationCache) -> None:
    assert objects(written) == {path.name: path.read_bytes() for path in local.path.iterdir()}


def test_the_manifest_comes_last(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded, upload = list[str](), store.upload

    def uploading(path: Path, url: str) -> str:
        if path.name in (MANIFEST, PROGRESS):  # which say what is there
            splits = json.loads(path.read_text())["splits"].values()
            assert {shard["file"] for split in splits for shard in split["shards"]} <= {*uploaded}
        uploaded.append(path.name)
        return upload(path, url)

    monkeypatch.setattr(store, "upload", uploading)
    write(folder())
    assert uploaded[-1] == MANIFEST
    assert len([name for name in uploaded if name.endswith(".bin")]) == len({*uploaded} - {MANIFEST, PROGRESS}) > 1


def test_a_harvest_that_was_interrupted_goes_on_on_another_machine(
    folder: Folder, machine: Callable[[str], None], local: ActivationCache
) -> None:
    calls = 0

    def dying(ids: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        return forward(ids)

    with pytest.raises(KeyboardInterrupt):
        write(folder(), forward=dying)
    assert PROGRESS in objects(URL)
    machine("second")
    fetch_records(folder())
    calls = -1000
    write(folder(), forward=dying)
    assert calls < -1000 + 40  # of 57: what was uploaded is not harvested again
    assert objects(URL) == {path.name: path.read_bytes() for path in local.path.iterdir()}


def test_a_harvest_keeps_within_the_bound(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    bound, sizes = 20_000, []
    monkeypatch.setattr("saemd.files.push", lambda path: (sizes.append(on_disk(path.parent)), mirror.push(path)))
    write(folder(), dataclasses.replace(CONFIG, local_gigabytes=bound / 1e9))
    assert 10_000 < max(sizes) <= bound


@pytest.mark.parametrize("bound", [1e6, 43_000])  # bytes: all of it, and five of its seven shards
@pytest.mark.parametrize("prefetch", [0, 4])
def test_batches_are_those_of_the_disk(
    written: str, folder: Folder, local: ActivationCache, bound: float, prefetch: int
) -> None:
    cache = opened(folder(), local_gigabytes=bound / 1e9, prefetch_batches=prefetch)
    assert isinstance(cache, RemoteCache)
    local.window_tokens = 512
    ours, theirs = cache.stream(64, 9000, seed=3), local.stream(64, 9000, seed=3)  # three epochs
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert on_disk(folder()) <= bound
    assert all(torch.equal(a, b) for a, b in zip(cache.heldout(64), local.heldout(64), strict=True))
    assert torch.equal(cache.sample(200), local.sample(200))


def test_a_resumed_stream_goes_on(written: str, folder: Folder, local: ActivationCache) -> None:
    cache = opened(folder())
    stream, whole = cache.stream(64, 3000, seed=1), cache.stream(64, 3000, seed=1)
    stream.load_state_dict({**stream.state_dict(), "batches": 20})
    assert all(torch.equal(a, b) for a, b in zip(stream, islice(whole, 20, None), strict=True))


def test_the_first_batch_needs_only_its_own_blocks(
    written: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is fetched by who waits for it, also where the threads are slow."""
    memory, main = fsspec.filesystem("memory"), threading.current_thread()
    cat, fetched, slow = memory.cat_file, [], threading.Event()

    def counted(path: str, start: int, end: int) -> bytes:
        if threading.current_thread() is main:
            fetched.append(end - start)
        else:
            slow.wait(20)
        return cat(path, start=start, end=end)

    monkeypatch.setattr(remote, "THREADS", 0)
    cache = opened(folder(), prefetch_batches=0)
    monkeypatch.setattr(memory, "cat_file", counted)
    next(iter(cache.stream(64, 3000, seed=3)))
    slow.set()
    assert 0 < sum(fetched) <= 16 * 512  # eight slices of eight tokens, each in at most two blocks


def test_what_the_stream_will_want_is_fetched_ahead(written: str, folder: Folder) -> None:
    cache = opened(folder(), local_gigabytes=1e-3)
    stream = iter(cache.stream(64, 3000, seed=3))
    next(stream)
    work = cache._work  # type: ignore[attr-defined]
    deadline = threading.Event()
    while not work.empty() and not deadline.wait(0.01):
        pass
    assert len([*folder().glob("train-*.bin")]) >= 1  # whole shards, of which a batch reads 64 tokens


def test_a_second_run_fetches_nothing(
    written: str, folder: Folder, local: ActivationCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [batch.clone() for batch in opened(folder()).stream(64, 3000, seed=3)]
    assert [*opened(folder()).heldout(64)]
    monkeypatch.setattr(fsspec.filesystem("memory"), "cat_file", None)
    assert all(torch.equal(a, b) for a, b in zip(opened(folder()).stream(64, 3000, seed=3), first, strict=True))


@pytest.mark.parametrize("damage", ["corrupt", "nan", "truncated", "missing"])
def test_damage_in_the_store_is_named(written: str, folder: Folder, damage: str) -> None:
    memory, path = fsspec.filesystem("memory"), "/bucket/caches/activations/tiny/train-00002.bin"
    bits = np.frombuffer(memory.cat_file(path), dtype="<u2").copy()
    bits[5] = 0x7F80 if damage == "nan" else bits[5] ^ 1
    if damage == "missing":
        memory.rm_file(path)
    else:
        memory.pipe_file(path, bits.tobytes()[: 100 if damage == "truncated" else None])
    said = {"corrupt": "checksum", "nan": "NaN or infinite", "truncated": "100 bytes", "missing": "no bytes"}[damage]
    with pytest.raises(UserError, match=rf"{URL}/train-00002.bin: .*{said}.*write (it|the cache) again"):
        for _ in opened(folder()).stream(64, 3000, seed=3):
            pass
    assert not (folder() / "train-00002.bin").exists()


def test_a_window_that_the_bound_does_not_hold_is_refused(written: str, folder: Folder) -> None:
    with pytest.raises(UserError, match=r"activations.local_gigabytes=1e-05: .*window_tokens=512 needs .* kB"):
        opened(folder(), local_gigabytes=1e-5)


def test_a_cache_that_was_deleted_in_the_store_is_gone_here_too(written: str, folder: Folder) -> None:
    opened(folder())
    fsspec.filesystem("memory").rm("/bucket/caches/activations/tiny", recursive=True)
    fetch_records(folder())
    assert not (folder() / MANIFEST).exists()


def test_other_caches_make_room(written: str, folder: Folder, machine: Callable[[str], None]) -> None:
    other = folder().with_name("other")
    other.mkdir(parents=True)
    (other / "train-00000.bin").write_bytes(bytes(20_000))
    for _ in opened(folder(), local_gigabytes=60_000 / 1e9).stream(64, 3000, seed=3):
        pass
    assert not (other / "train-00000.bin").exists()


def test_files_beside_the_activations_stay_here(bucket: str, folder: Folder) -> None:
    write_text(folder().parent.parent / "digests.json", "{}")
    assert objects(bucket) == {}


def test_numbers_are_those_that_were_harvested(written: str, folder: Folder) -> None:
    cache = opened(folder())
    read = [n for batch in cache.heldout(64) for n in numbers(batch * cache.scale)]
    assert len(read) == len(set(read)) == 300
    assert cache.d_in == D
