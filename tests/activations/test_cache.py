"""Writing a cache: what is in it, what a kill leaves, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from saemd.activations.config import ActivationsConfig, check_activations
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import SPLITS, Origin, Shard, SplitName
from saemd.activations.disk.shards import disk_bytes, to_bits, to_float
from saemd.activations.harvest.write import begin, lock, write_shards
from saemd.checksums import without_checksum
from saemd.errors import UserError
from tests.activations.caches import CONFIG, HELDOUT, D, contexts, forward, make, numbers, origin, write, write_cache
from tests.ordinary_user import read_only


@pytest.fixture
def cache(tmp_path: Path) -> ActivationCache:
    return make(tmp_path / "cache")


def tokens_of(cache: ActivationCache, shard: Shard) -> torch.Tensor:
    bits_ND = np.fromfile(cache.path / shard.file, dtype=np.uint16).reshape(shard.tokens, D)
    return torch.from_numpy(to_float(bits_ND))


def everything(cache: ActivationCache, split: SplitName) -> torch.Tensor:
    return torch.cat([tokens_of(cache, shard) for shard in cache.manifest.splits[split].shards])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_holds_the_first_tokens_without_specials_and_outliers(cache: ActivationCache) -> None:
    for split, wanted, first in zip(SPLITS, (3000, 300), (0, HELDOUT), strict=True):
        usable = [i for i in range(first, first + 10_000) if i % 16 and i % 97]
        assert sorted(numbers(everything(cache, split))) == usable[:wanted]
        written = cache.manifest.splits[split]
        assert written.tokens == wanted == sum(shard.tokens for shard in written.shards)
        last = usable[wanted - 1]
        assert written.dropped_outliers == sum(i % 97 == 0 and i % 16 > 0 for i in range(first, last + 1))
        assert written.dropped_special == written.contexts
    assert len(cache.manifest.splits["train"].shards) == 7
    assert (cache.path / "train-00000.bin").stat().st_size == disk_bytes(
        cache.manifest.splits["train"].shards[0].tokens, D
    )
    assert not list(cache.path.glob("*.tmp"))


def test_shards_are_permuted(cache: ActivationCache) -> None:
    shard = cache.manifest.splits["train"].shards[1]
    order = np.array(numbers(tokens_of(cache, shard)))
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.2


def test_statistics_are_those_of_the_kept_tokens(cache: ActivationCache) -> None:
    x = everything(cache, "train").double()
    norms = x.norm(dim=1)
    torch.testing.assert_close(cache.mean.double(), x.mean(0), rtol=1e-6, atol=1e-6)
    assert cache.scale == pytest.approx(norms.square().mean().sqrt().item(), rel=1e-12)
    for q, value in cache.manifest.statistics.norm_quantiles.items():
        assert value == pytest.approx(norms.quantile(float(q), interpolation="lower").item(), rel=0.011)


def test_rounding_is_bfloat16s_and_comes_before_the_statistics(tmp_path: Path) -> None:
    x = torch.randn(64, D) * torch.logspace(-20, 20, 64)[:, None]
    assert torch.equal(torch.from_numpy(to_float(to_bits(x))), x.to(torch.bfloat16).float())
    noisy = write(tmp_path / "noisy", forward=lambda ids: forward(ids) * 1.001)
    rounded = write(tmp_path / "rounded", forward=lambda ids: (forward(ids) * 1.001).to(torch.bfloat16))
    assert contents(noisy) == contents(rounded)


class Dying:
    """Counts its calls and is interrupted at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.calls, self.at = 0, at

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return forward(ids)


@pytest.mark.parametrize("killed_at", [1, 9, 30, 52])
def test_killed_and_resumed_is_the_same_byte_for_byte(tmp_path: Path, killed_at: int) -> None:
    whole, killed, resumed = Dying(), Dying(killed_at), Dying()
    write(tmp_path / "whole", forward=whole)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", forward=killed)
    with pytest.raises(UserError, match="no finished activation cache"):
        ActivationCache.open(tmp_path / "killed")
    write(tmp_path / "killed", forward=resumed)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    repeated = killed.calls + resumed.calls - whole.calls
    assert repeated <= CONFIG.shard_tokens // CONFIG.lm_batch_tokens, "more than one shard was done twice"


def test_an_unfinished_cache_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", forward=Dying(30))
    resumed = Dying()
    with read_only(tmp_path / "killed"), pytest.raises(UserError, match=r"killed: cannot be written \(Perm"):
        write(tmp_path / "killed", forward=resumed)
    assert resumed.calls == 0
    write(tmp_path / "killed")
    write(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_short_corpus_finishes_with_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "cache", n_contexts=50)
    cache = ActivationCache.open(tmp_path / "cache")
    assert cache.n_train == sum(i % 97 > 0 and i % 16 > 0 for i in range(50 * 16))
    assert cache.n_heldout == 300
    said = capsys.readouterr().err
    assert f"corpus=made-up ended after {cache.n_train}" in said
    assert "3,000 + 300 held-out tokens of width 8, 52.8 kB to write" in said.splitlines()[0]


def test_empty_corpus_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^corpus=made-up: its train documents fill no context of 16 tokens"):
        write(tmp_path / "cache", n_contexts=0)
    assert list(tmp_path.iterdir()) == []


def test_text_of_special_tokens_alone_is_refused(tmp_path: Path) -> None:
    nothing = (torch.zeros(16, dtype=torch.int64), torch.zeros(16, dtype=torch.bool))
    contexts = dict.fromkeys(SPLITS, lambda: iter([nothing] * 3))
    with pytest.raises(UserError, match=r"^corpus=made-up: all tokens of its 3 train contexts are special tokens or"):
        write_cache(tmp_path / "cache", origin(), CONFIG, contexts, forward, "float32")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_activations_are_refused_with_count_and_shard(tmp_path: Path, value: float) -> None:
    def broken(ids: torch.Tensor) -> torch.Tensor:
        acts = forward(ids)
        acts[ids == 1000, :3] = value
        return acts

    with pytest.raises(UserError, match=r"lm_dtype=float32: 3 of 480 values for train-00001.bin are NaN or infinite"):
        write(tmp_path / "cache", forward=broken)
    assert write(tmp_path / "cache").joinpath("manifest.json").is_file()  # mended, it goes on


def test_activations_of_another_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not of width 8"):
        write(tmp_path / "cache", forward=lambda ids: forward(ids)[..., :7])


def test_too_little_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = disk_bytes(3300, D)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, int(needed * 1.04)))
    with pytest.raises(UserError, match=r"^activations.tokens=3000: the cache needs 55.4 kB and .* has 54.9 kB free"):
        write(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, int(needed * 1.06)))
    write(tmp_path / "cache")


def damage(cache: ActivationCache, kind: str) -> str:
    path = cache.path / "train-00002.bin"
    data = bytearray(path.read_bytes())
    if kind == "corrupt":
        data[100] ^= 1
    elif kind == "foreign":
        data = bytearray((cache.path / "train-00001.bin").read_bytes()[: len(data)]).ljust(len(data), b"\0")
    elif kind == "truncated":
        del data[-D:]
    path.write_bytes(data)
    if kind == "missing":
        path.unlink()
    return path.name


@pytest.mark.parametrize("kind", ["corrupt", "foreign"])
def test_corrupt_shard_is_refused_when_it_is_read(cache: ActivationCache, kind: str) -> None:
    cache.sample(cache.n_train)  # the shard is checked, and its check remembered: a later change must still be noticed
    name = damage(cache, kind)
    with pytest.raises(UserError, match=f"{name}: its checksum is not the manifest's"):
        ActivationCache.open(cache.path, verify=True).sample(cache.n_train)


@pytest.mark.parametrize(("kind", "message"), [("truncated", "truncated or of another"), ("missing", "is missing")])
def test_truncated_or_missing_shard_is_refused_when_opened(cache: ActivationCache, kind: str, message: str) -> None:
    name = damage(cache, kind)
    with pytest.raises(UserError, match=f"{name}: .*{message}"):
        ActivationCache.open(cache.path)


def test_nan_in_a_shard_is_refused_with_its_count(cache: ActivationCache) -> None:
    path = cache.path / "heldout-00000.bin"
    bits = np.fromfile(path, dtype=np.uint16)
    bits[5:8] = [0x7FC0, 0x7F80, 0xFF80]
    bits.tofile(path)
    with pytest.raises(UserError, match=r"heldout-00000.bin: 3 of 2,400 activations are NaN or infinite"):
        list(ActivationCache.open(cache.path, verify=False).heldout(64))


def test_manifest_of_another_width_or_kind_is_refused(cache: ActivationCache) -> None:
    path = cache.path / "manifest.json"
    manifest = without_checksum(json.loads(path.read_text()))
    for other, line in (({"layer": 7}, "contradicts its fingerprint"), ({"d_in": 16}, "a mean of width 8, not 16")):
        path.write_text(json.dumps({**manifest, "origin": {**manifest["origin"], **other}}))
        with pytest.raises(UserError, match=line):
            ActivationCache.open(cache.path)
    for text in ("{", "[]", '{"format": 1}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"manifest\.json: "):
            ActivationCache.open(cache.path)


def test_sample_is_of_different_tokens_and_repeats_with_its_seed(cache: ActivationCache) -> None:
    a, b, again = cache.sample(500, seed=0), cache.sample(500, seed=1), cache.sample(500, seed=0)
    assert len(set(numbers(a))) == 500
    assert torch.equal(a, again)
    assert set(numbers(a)) != set(numbers(b))
    assert len(cache.sample(10**6)) == cache.n_train


def test_heldout_batches_hold_every_token_once_normalised(cache: ActivationCache) -> None:
    heldout = cache.heldout(64)
    batches = list(heldout)
    assert [len(batch) for batch in batches] == [64, 64, 64, 64, 44]
    assert len(heldout) == 5
    assert all(torch.equal(a, b) for a, b in zip(heldout, batches, strict=True))  # it can be iterated again
    x = torch.cat(batches) * cache.scale
    assert sorted(numbers(x)) == sorted(numbers(everything(cache, "heldout")))


def test_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from saemd.activations.harvest.write import begin, lock, write_shards
with lock(Path({str(tmp_path / "cache")!r})):
    print("mine")
"""
    with lock(tmp_path / "cache"):
        other = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert other.stderr is not None
        assert "another process is writing" in other.stderr.readline()
        assert other.poll() is None
    assert other.communicate(timeout=30) == ("mine\n", "")


@pytest.mark.parametrize(
    ("key", "value"),
    [("tokens", 0), ("context_length", 1), ("shard_tokens", 10), ("outlier_factor", 1.0), ("lm_dtype", "float16")],
)
def test_values_out_of_range_are_refused_by_name(key: str, value: object) -> None:
    check_activations(ActivationsConfig())
    with pytest.raises(UserError, match=f"^activations.{key}={value}: "):
        check_activations(dataclasses.replace(CONFIG, **{key: value}))  # type: ignore[arg-type]


def test_a_part_of_the_documents_has_a_cache_of_its_own():
    """All parts share `whole_fingerprint`, and no part is what it was before there were parts."""
    origin = Origin("lm", "a", 1, 8, "text", "b", 32, 100, 10, 50, None, "auto")
    half = dataclasses.replace(origin, part="0/2")
    assert origin.fingerprint == "0927beeacb5415b6c997176673d084b907d7f0d9a35be6a9baf68f1e12c94d68"
    assert half.whole_fingerprint == origin.whole_fingerprint == origin.fingerprint
    assert len({origin.fingerprint, half.fingerprint, dataclasses.replace(half, part="1/2").fingerprint}) == 3


def test_a_cache_that_was_finished_meanwhile_is_begun_and_written_without_change(tmp_path: Path) -> None:
    """As by a process that looked before another one wrote the manifest."""
    before = {path.name: path.read_bytes() for path in write(tmp_path / "cache").iterdir()}
    sources = {split: partial(contexts, split) for split in SPLITS}
    ledger = begin(tmp_path / "cache", origin(), CONFIG, sources, "float32")  # type: ignore[arg-type]
    write_shards(ledger, CONFIG, sources, forward)  # type: ignore[arg-type]
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
