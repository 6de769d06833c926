"""Caches under a model's earlier, sampled fingerprint: taken over only where the model is the same."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.harvest import takeover
from saemd.activations.harvest.open import ensure_cache
from saemd.corpus.config import CorpusConfig
from saemd.lm.config import LMConfig
from saemd.lm.load import lm_info
from tests.pipeline import WORDS, save_jsonl, save_model

ACTIVATIONS = ActivationsConfig(tokens=600, heldout_tokens=100, context_length=32, shard_tokens=512)
LARGE = LlamaConfig(
    vocab_size=len(WORDS) + 3, hidden_size=64, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
)  # fmt: skip


@pytest.fixture
def lm(tmp_path) -> LMConfig:
    """A model of 6 MB, so that most of its weights lie between the samples."""
    return LMConfig(name=str(save_model(tmp_path / "model", LARGE)))


@pytest.fixture
def ensure(lm, tmp_path) -> Callable[..., ActivationCache]:
    corpus = CorpusConfig(name="files", path=str(save_jsonl(tmp_path / "text.jsonl", 200)), heldout_fraction=0.2)
    return lambda name=lm.name: ensure_cache(
        LMConfig(name=name), 0, corpus, ACTIVATIONS, tmp_path / "cache", accelerator="cpu"
    )


def as_before(cache: ActivationCache, lm: LMConfig, layer_name: str = "old-name-layer0") -> Path:
    """The cache as the version before wrote it: under the sampled fingerprint, in a folder called after that."""
    manifest = cache.manifest
    origin = dataclasses.replace(manifest.origin, lm_fingerprint=takeover.sampled(lm, Path(lm.name)))
    status = (cache.path / "manifest.json").stat()
    takeover.write_json(
        cache.path / "manifest.json", dataclasses.replace(manifest, origin=origin, fingerprint=origin.fingerprint)
    )
    os.utime(cache.path / "manifest.json", ns=(status.st_atime_ns, status.st_mtime_ns))
    old = cache.path.with_name(f"{layer_name}-{origin.fingerprint[:12]}")
    return cache.path.rename(old)


def shards(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and content of every shard: the same where nothing was written again."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.glob("*.bin")}


def poke(model: Path) -> None:
    """A rank-one edit of one MLP matrix that lies between the samples: one weight, the same size and time."""
    path = model / "model.safetensors"
    before, size = path.stat(), path.stat().st_size
    seen = takeover.sampled(LMConfig(name=str(model)), model)
    time.sleep(0.02)
    with open(path, "r+b") as file:
        file.seek(size // 32 * 7 // 4 * 4)
        file.write(b"\x00\x00\x80\x3f")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert takeover.sampled(LMConfig(name=str(model)), model) == seen


def test_an_edit_between_the_samples_is_another_model(lm, tmp_path):
    before = lm_info(lm, tmp_path).fingerprint
    poke(Path(lm.name))
    assert lm_info(lm, tmp_path).fingerprint != before


def test_a_cache_of_the_same_model_is_taken_over(lm, ensure, capsys):
    new = ensure()
    old = as_before(new, lm)
    content = shards(old)
    capsys.readouterr()
    found = ensure()
    assert (found.path, found.fingerprint) == (new.path, new.fingerprint)
    assert shards(found.path) == content
    assert not old.exists()
    assert capsys.readouterr().err == f"{old}, of the same model, is now {new.path}\n"
    assert ensure().path == found.path
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("step", ["before the manifest is replaced", "before the folder is renamed"])
def test_a_kill_leaves_a_cache_that_the_next_call_takes_over(step, lm, ensure, monkeypatch):
    new = ensure()
    old = as_before(new, lm)
    content = shards(old)
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(source).is_dir() == (step == "before the folder is renamed") and old in (source, source.parent):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            ensure()
    assert shards(old) == content
    found = ensure()
    assert (found.path, shards(found.path)) == (new.path, content)


@pytest.mark.parametrize("change", ["weights", "tokenizer", "another folder in its place"])
def test_a_model_that_changed_since_is_not_taken_for_the_same(change, lm, ensure, tmp_path, capsys):
    if change == "another folder in its place":  # made before the cache, so that its files are older
        shutil.copytree(lm.name, tmp_path / "other")
        poke(tmp_path / "other")
        time.sleep(0.02)
    new = ensure()
    old = as_before(new, lm)
    content = shards(old)
    if change == "weights":
        poke(Path(lm.name))
    elif change == "tokenizer":
        path = Path(lm.name) / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token": None}))
    else:
        shutil.rmtree(lm.name)
        (tmp_path / "other").rename(lm.name)
    found = ensure()
    assert found.path not in (old, new.path)
    assert shards(old) == content
    said = capsys.readouterr().err
    assert f"{old} is left unused, and the cache is written anew: " in said
    assert "changed after it was begun" in said


def test_another_folder_with_equal_samples_is_not_taken_for_the_same(lm, ensure, tmp_path, capsys):
    shutil.copytree(lm.name, tmp_path / "copy")
    poke(tmp_path / "copy")
    old = as_before(ensure(), lm)
    ensure(str(tmp_path / "copy"))
    assert (old / "manifest.json").is_file()
    assert f"it is of lm.name={lm.name}, and only the same absolute path proves" in capsys.readouterr().err


def test_relative_names_prove_nothing(lm, ensure, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = as_before(ensure("model"), lm)
    ensure("model")
    assert (old / "manifest.json").is_file()
    assert "it is of lm.name=model, and only the same absolute path proves" in capsys.readouterr().err


def test_an_unfinished_cache_is_left_with_a_line(lm, ensure, capsys):
    old = as_before(ensure(), lm)
    (old / "manifest.json").rename(old / "progress.json")
    ensure()
    assert old.exists()
    assert f"{old}, which an earlier version left unfinished, is not used" in capsys.readouterr().err


def test_a_damaged_manifest_is_left_with_a_line(lm, ensure, capsys):
    old = as_before(ensure(), lm)
    (old / "manifest.json").write_text("{")
    ensure()
    assert "manifest.json: is not JSON" in capsys.readouterr().err


def test_the_same_model_under_another_name_has_the_same_cache(lm, ensure, tmp_path, monkeypatch):
    new = ensure()
    shutil.copytree(lm.name, tmp_path / "home" / "copy")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("model", "./model", f"{lm.name}/", "~/copy"):
        assert ensure(name).path == new.path


def test_a_long_path_to_a_model_makes_no_long_folder(lm, ensure, tmp_path):
    deep = tmp_path.joinpath(*["d" * 60] * 5, "m" * 200)
    deep.parent.mkdir(parents=True)
    shutil.copytree(lm.name, deep)
    assert len(ensure(str(deep)).path.name) < 120
