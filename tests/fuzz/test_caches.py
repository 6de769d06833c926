"""Damaged activation caches: every byte of a manifest, a shard or a progress file may be another one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import read_manifest, read_progress
from saemd.activations.online.contexts import ContextStore, write_contexts
from tests.activations import caches
from tests.fuzz.mutations import as_json, damaged_bytes, damaged_value, few, refused, same_or_refused
from tests.fuzz.places import emptied


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return caches.write(tmp_path_factory.mktemp("cache") / "whole")


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory) -> Path:
    """A cache that a kill left behind its third shard."""
    folder = tmp_path_factory.mktemp("cache") / "unfinished"
    calls = iter(range(30))

    def dying(ids_BT):
        next(calls)
        return caches.forward(ids_BT)

    with pytest.raises((RuntimeError, StopIteration)):
        caches.write(folder, forward=dying)
    return folder


@few(80)
@given(data=st.data())
def test_bytes_of_a_manifest(data, whole, tmp_path_factory):
    folder = emptied(tmp_path_factory, "manifest")
    (folder / "manifest.json").write_bytes(data.draw(damaged_bytes((whole / "manifest.json").read_bytes())))
    same_or_refused(lambda: read_manifest(folder), read_manifest(whole))


@few(50)
@given(data=st.data())
def test_values_of_a_manifest_that_has_no_checksum(data, whole, tmp_path_factory):
    """As of a cache that an earlier version wrote: nothing but a `UserError` comes of it, also when it is read."""
    folder = emptied(tmp_path_factory, "values")
    for path in whole.glob("*.bin"):
        (folder / path.name).symlink_to(path)
    saved = json.loads((whole / "manifest.json").read_text())
    saved.pop("checksum", None)
    (folder / "manifest.json").write_bytes(as_json(data.draw(damaged_value(saved))))

    def read() -> None:
        cache = ActivationCache.open(folder, verify=True)
        next(iter(cache.stream(64, 640, seed=0)))
        next(iter(cache.heldout(64)))
        cache.summary()

    refused(read)


@few(20)
@given(data=st.data())
def test_bytes_of_a_shard(data, whole, tmp_path_factory):
    folder = emptied(tmp_path_factory, "shard")
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    shard = folder / data.draw(st.sampled_from(("train-00000.bin", "train-00003.bin", "heldout-00000.bin")))
    shard.write_bytes(data.draw(damaged_bytes(shard.read_bytes())))

    def numbers(path: Path) -> list[int]:
        cache = ActivationCache.open(path, verify=True)
        return [n for split in ("train", "heldout") for shard in cache.manifest.splits[split].shards
                for n in cache.bits(shard).ravel().tolist()]  # fmt: skip

    same_or_refused(lambda: numbers(folder), numbers(whole))


@few(60)
@given(data=st.data())
def test_a_progress_file_is_gone_on_with_or_refused(data, unfinished, tmp_path_factory):
    """Bytes may be others, or whole values; a cache that goes on all the same has the bytes of a whole one."""
    folder = emptied(tmp_path_factory, "progress")
    path = unfinished / "progress.json"
    if data.draw(st.booleans()):
        content = data.draw(damaged_bytes(path.read_bytes()))
        (folder / "progress.json").write_bytes(content)
        same_or_refused(lambda: read_progress(folder), read_progress(unfinished))
        return
    shutil.copytree(unfinished, folder, dirs_exist_ok=True)
    saved = json.loads(path.read_text())
    saved.pop("checksum", None)
    (folder / "progress.json").write_bytes(as_json(data.draw(damaged_value(saved))))
    refused(lambda: caches.write(folder))


@few(50)
@given(data=st.data())
def test_tokenised_text(data, tmp_path_factory):
    folder = emptied(tmp_path_factory, "text")
    write_contexts(folder, caches.origin(), caches.contexts("train"))

    def tokens() -> list:
        store = ContextStore(folder)
        return [part.tolist() for part in store.read(list(range(len(store))))] + [store.tokens]  # type: ignore[arg-type]

    expected = tokens()
    damaged = folder / data.draw(st.sampled_from(("contexts.bin", "about.json")))
    damaged.write_bytes(data.draw(damaged_bytes(damaged.read_bytes())))
    same_or_refused(tokens, expected)
