"""Shards of a cache of the same text are taken over, and the cache is the same bytes as one that is made anew."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from saemd.activations.config import ActivationsConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import SPLITS, Piece, Progress, SplitName
from saemd.activations.harvest.ledger import FileLedger
from tests.activations.caches import CONFIG, contexts, forward, origin, write, write_cache

HALF = dataclasses.replace(CONFIG, tokens=1500)


class Counted:
    """`forward`, and how many contexts it was asked for."""

    contexts = 0

    def __call__(self, ids_BT: Tensor) -> Tensor:
        self.contexts += len(ids_BT)
        return forward(ids_BT)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def both(tmp_path: Path, other: ActivationsConfig, config: ActivationsConfig, **values: Any) -> tuple[int, int]:
    """Contexts that a cache takes alone and beside `other`. Their files must be the same."""
    for name in ("alone", "made"):
        (tmp_path / name).mkdir()
    write(tmp_path / "made" / "tiny-layer1-b", other, **values)
    anew, beside = Counted(), Counted()
    alone = write(tmp_path / "alone" / "tiny-layer1-a", config, anew, **values)
    taken = write(tmp_path / "made" / "tiny-layer1-a", config, beside, **values)
    assert files(taken) == files(alone)
    ActivationCache.open(taken, verify=True)
    return anew.contexts, beside.contexts


@pytest.mark.parametrize("workers", [1, 2])
def test_more_tokens_of_the_same_text(tmp_path: Path, workers: int) -> None:
    anew, beside = both(tmp_path, HALF, CONFIG, workers=workers)
    # 32 contexts of 15 wanted tokens a shard: of 1,500 tokens three shards are whole; held-out tokens are all there
    assert anew - beside >= 3 * 32 + 300 // 15


def test_fewer_tokens_of_the_same_text(tmp_path: Path) -> None:
    anew, beside = both(tmp_path, CONFIG, HALF)
    assert beside < anew / 2


def test_more_held_out_tokens(tmp_path: Path) -> None:
    anew, beside = both(tmp_path, CONFIG, dataclasses.replace(CONFIG, heldout_tokens=1100))
    assert beside < anew / 2


def test_corpus_that_ends_before_both(tmp_path: Path) -> None:
    _, beside = both(tmp_path, CONFIG, dataclasses.replace(CONFIG, tokens=4000), n_contexts=150)
    assert not beside


@pytest.mark.parametrize(
    "changes",
    [{"context_length": 32}, {"shard_tokens": 1024}, {"outlier_factor": None}, {"tokens": 400}],
    ids=lambda changes: next(iter(changes)),
)
def test_nothing_of_another_text_or_of_less_than_a_shard(tmp_path: Path, changes: dict[str, Any]) -> None:
    anew, beside = both(tmp_path, dataclasses.replace(HALF, **changes), CONFIG)
    assert anew == beside


def test_nothing_of_another_dtype(tmp_path: Path) -> None:
    sources = {split: partial(contexts, split) for split in SPLITS}
    write_cache(tmp_path / "tiny-layer1-b", origin(HALF), HALF, sources, forward, "bfloat16")
    anew, beside = Counted(), Counted()
    write(tmp_path / "alone", forward=anew)
    write(tmp_path / "tiny-layer1-a", forward=beside)
    assert anew.contexts == beside.contexts


@pytest.mark.parametrize("damage", ["flipped", "missing", "short"])
def test_damaged_shard_is_made_anew(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    alone = write(tmp_path / "alone")
    other = write(tmp_path / "tiny-layer1-b", HALF) / "train-00001.bin"
    content = bytearray(other.read_bytes())
    content[100] ^= 1
    other.unlink()
    if damage != "missing":
        other.write_bytes(content if damage == "flipped" else content[:-2])
    counted = Counted()
    taken = write(tmp_path / "tiny-layer1-a", forward=counted)
    assert files(taken) == files(alone)
    assert "train-00001.bin" in capsys.readouterr().err
    assert counted.contexts > 0


def test_a_cache_that_is_deleted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = write(tmp_path / "alone")
    other = write(tmp_path / "tiny-layer1-b", HALF)

    def deleted(self: FileLedger, split: SplitName, number: int, piece: Piece, shard: Path) -> Progress:
        shard.unlink()
        return take(self, split, number, piece, shard)

    take = FileLedger.take
    monkeypatch.setattr(FileLedger, "take", deleted)
    taken = write(tmp_path / "tiny-layer1-a")
    assert files(taken) == files(alone)
    assert not (other / "train-00000.bin").exists()


def test_a_linked_shard_outlives_the_cache_it_came_from(tmp_path: Path) -> None:
    other = write(tmp_path / "tiny-layer1-b", HALF)
    taken = write(tmp_path / "tiny-layer1-a")
    assert (taken / "train-00000.bin").stat().st_ino == (other / "train-00000.bin").stat().st_ino
    for path in other.iterdir():
        path.unlink()
    ActivationCache.open(taken, verify=True)


def test_copied_where_a_disk_cannot_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("saemd.activations.harvest.ledger.os.link", refuse)
    both(tmp_path, CONFIG, HALF)
    first = [tmp_path / "made" / name / "train-00000.bin" for name in ("tiny-layer1-a", "tiny-layer1-b")]
    assert first[0].stat().st_ino != first[1].stat().st_ino
