"""Reading a cache: order, epochs, exact resuming (through Lightning too), bounded memory, clean ends."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import lightning as pl
import numpy as np
import pytest
import torch

from saemd.activations.datamodule import ActivationDataModule
from saemd.activations.disk.batch import BatchPlan
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.shards import to_float
from saemd.activations.streams.stream import BatchStream
from saemd.errors import UserError
from tests.activations.caches import make, numbers

N = 3000


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ActivationCache:
    return make(tmp_path_factory.mktemp("activations") / "cache")


def stream(
    cache: ActivationCache,
    tokens: int = 2 * N,
    seed: int = 0,
    batch_size: int = 128,
    window: int = 1100,
    prefetch: int = 3,
    **processes: int,
) -> BatchStream:
    opened = ActivationCache(cache.path, cache.manifest, cache.verify, window, prefetch)
    return opened.stream(batch_size, tokens, seed, **processes)


def taken(cache: ActivationCache, batches) -> list[int]:  # type: ignore[no-untyped-def]
    return numbers(torch.cat(list(batches)) * cache.scale)


@pytest.mark.parametrize("window", [100, 512, 1100, 10**9])
@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_every_token_once_per_epoch_in_another_order(cache: ActivationCache, window: int, prefetch: int) -> None:
    batches = list(stream(cache, batch_size=125, window=window, prefetch=prefetch))
    assert len(batches) == 48
    assert all(batch.shape == (125, 8) and batch.dtype == torch.float32 for batch in batches)
    order = taken(cache, batches)
    assert sorted(order[:N]) == sorted(order[N:]) == sorted(numbers(cache.sample(N)))
    assert order[:N] != order[N:]


def test_mean_squared_norm_is_one(cache: ActivationCache) -> None:
    x = torch.cat(list(stream(cache, tokens=N, batch_size=125)))
    assert x.square().sum(1).mean().item() == pytest.approx(1, rel=1e-6)


def test_seed_decides_the_order(cache: ActivationCache) -> None:
    first, again, other = (torch.cat(list(stream(cache, seed=seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_order_mixes_shards(cache: ActivationCache) -> None:
    """A window of several shards gives batches with tokens of several of them, from all over their contexts."""
    batch = numbers(next(iter(stream(cache, window=1500))) * cache.scale)
    assert len({number // 512 for number in batch}) >= 3
    assert len({number // 16 for number in batch}) > 60


@pytest.mark.parametrize("at", [0, 1, 8, 23, 24, 45, 46])
def test_resumes_exactly_at_the_batches_taken(cache: ActivationCache, at: int) -> None:
    whole = list(stream(cache))
    assert len(whole) == len(stream(cache)) == 46
    interrupted = stream(cache)
    iterator = iter(interrupted)
    before = list(itertools.islice(iterator, at))
    time.sleep(0.05)  # for the thread to run ahead
    state = interrupted.state_dict()
    assert state["batches"] == at
    iterator.close()  # type: ignore[attr-defined]
    resumed = stream(cache)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    rest = list(resumed)
    assert len(before) + len(rest) == 46
    assert all(torch.equal(a, b) for a, b in zip(before + rest, whole, strict=True))
    assert torch.equal(next(iter(resumed)), whole[0])


def test_state_of_another_order_is_refused(cache: ActivationCache) -> None:
    state = stream(cache, seed=1).state_dict()
    with pytest.raises(UserError, match="seed=1, this one has 0"):
        stream(cache, seed=0).load_state_dict(state)


def test_a_state_of_an_earlier_version_is_read(cache: ActivationCache) -> None:
    """Earlier versions saved the number of processes, which was always 1."""
    whole, resumed = list(stream(cache)), stream(cache)
    resumed.load_state_dict({**resumed.state_dict(), "world": 1, "batches": 44})
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole[44:], strict=True))


@pytest.mark.parametrize("world", [2, 4, 128])
def test_processes_divide_each_batch(cache: ActivationCache, world: int) -> None:
    whole = list(stream(cache))
    parts = [list(stream(cache, rank=rank, world=world)) for rank in range(world)]
    assert {part[0].shape for part in parts} == {(128 // world, 8)}
    assert all(torch.equal(torch.cat(rows), batch) for *rows, batch in zip(*parts, whole, strict=True))


def test_another_number_of_processes_goes_on_at_the_same_batch(cache: ActivationCache) -> None:
    whole, first = list(stream(cache)), stream(cache, rank=0, world=2)
    list(itertools.islice(first, 5))
    for rank, world in ((0, 1), (1, 2), (3, 4)):
        other, size = stream(cache, rank=rank, world=world), 128 // world
        other.load_state_dict(first.state_dict())  # checkpoints hold the state of process 0
        rows = [batch[rank * size : (rank + 1) * size] for batch in whole[5:]]
        assert all(torch.equal(a, b) for a, b in zip(other, rows, strict=True))


def test_a_batch_that_cannot_be_divided_is_refused(cache: ActivationCache) -> None:
    with pytest.raises(UserError, match="batch_size=128: use a multiple of the 3 processes"):
        stream(cache, rank=0, world=3)


class Recorder(pl.LightningModule):
    """Keeps the batches it is trained on, and saves a checkpoint in the middle of the epoch."""

    def __init__(self, save_at: int | None = None, path: Path | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8))
        self.save_at, self.path, self.seen, self.validated = save_at, path, [], 0

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.clone())
        return (batch * self.weight).square().mean()

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def,override]
        if batch_idx + 1 == self.save_at:
            self.trainer.save_checkpoint(self.path)  # type: ignore[arg-type]
            self.trainer.should_stop = True

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated += len(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def fit(cache: ActivationCache, module: Recorder, checkpoint: Path | None = None) -> Recorder:
    opened = ActivationCache(cache.path, cache.manifest, cache.verify, window_tokens=1100, prefetch_batches=3)
    data = ActivationDataModule(opened.stream(128, 2 * N, seed=3), opened.heldout(128))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        max_steps=46,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return module


def test_lightning_resumes_in_the_middle_of_the_epoch(cache: ActivationCache, tmp_path: Path) -> None:
    whole = fit(cache, Recorder())
    assert len(whole.seen) == 46
    assert whole.validated == cache.n_heldout
    first = fit(cache, Recorder(save_at=17, path=tmp_path / "last.ckpt"))
    assert len(first.seen) == 17
    second = fit(cache, Recorder(), tmp_path / "last.ckpt")
    assert len(second.seen) == 29
    assert all(torch.equal(a, b) for a, b in zip(first.seen + second.seen, whole.seen, strict=True))
    assert torch.equal(second.weight, whole.weight)


def threads() -> int:
    return sum(thread.name.startswith("activations") for thread in threading.enumerate())


def test_abandoned_iteration_ends_its_threads(cache: ActivationCache) -> None:
    for batch in stream(cache):
        assert threads() in (1, 2)
        assert len(batch) == 128
        break
    assert threads() == 0


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_exception_while_reading_reaches_the_consumer_in_its_place(
    cache: ActivationCache, monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    whole, real = list(stream(cache)), BatchPlan.read

    def failing(plan: BatchPlan, factor: np.float32) -> torch.Tensor:
        x_BD = real(plan, factor)
        if torch.equal(x_BD, whole[5]):
            raise OSError("the disk is gone")
        return x_BD

    monkeypatch.setattr(BatchPlan, "read", failing)
    got = []
    with pytest.raises(OSError, match="the disk is gone"):
        got.extend(stream(cache, prefetch=prefetch))
    assert len(got) == 5
    assert all(torch.equal(a, b) for a, b in zip(got, whole, strict=False))
    assert threads() == 0


def test_interpreter_exits_in_the_middle_of_an_iteration(cache: ActivationCache) -> None:
    code = f"""
from saemd.activations.disk.cache import ActivationCache
iterator = iter(ActivationCache.open({str(cache.path)!r}).stream(128, 6000, 0))
next(iterator)
print("one batch")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one batch\n", "")


def test_memory_is_bounded_by_the_batches_made_early(cache: ActivationCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the consumer is: those made early, the one it has, and the one before it."""
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    real = BatchPlan.read

    def watching(*arguments) -> torch.Tensor:  # type: ignore[no-untyped-def]
        alive.add(made := real(*arguments))
        return made

    monkeypatch.setattr(BatchPlan, "read", watching)
    most = 0
    for batch in stream(cache, window=10**9):
        time.sleep(0.002)
        most = max(most, len(alive))
        del batch
    assert 3 <= most <= 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 127}, "^tokens=127: use at least one batch, batch_size=128"),
        ({"tokens": 10**6, "batch_size": 3001}, "^batch_size=3001: an epoch has 3000 tokens"),
        ({"batch_size": 0}, "^batch_size=0: "),
        ({"window": 0}, "^activations.window_tokens=0: "),
        ({"seed": -1}, "^seed=-1: "),
    ],
)
def test_what_gives_no_batch_is_refused(cache: ActivationCache, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stream(cache, **options)


@pytest.mark.parametrize("size", [100, 700, 1100, N])
@pytest.mark.parametrize("begin", [0, 8, 22, 30])
def test_the_order_is_the_documented_one(cache: ActivationCache, size: int, begin: int) -> None:
    """Bit for bit what `order` says, written out: it must stay, or checkpoints resume elsewhere."""
    shards, expected = cache.manifest.splits["train"].shards, []
    bits = {shard.file: np.fromfile(cache.path / shard.file, dtype=np.uint16).reshape(-1, 8) for shard in shards}
    for epoch in range(2):
        line = [shards[i] for i in np.random.default_rng([5, epoch, 0]).permutation(len(shards))]
        tokens = [(shard.file, i) for shard in line for i in range(shard.tokens)]
        for start in range(0, N, size):
            window = tokens[start : start + size]
            cut: list[list[tuple[str, int]]] = []
            for _, of_shard in itertools.groupby(window, key=lambda token: token[0]):
                rows = list(of_shard)
                cut += [rows[i : i + 16] for i in range(0, len(rows), 16)]  # an eighth of 128
            for i in np.random.default_rng([5, epoch, start + 1]).permutation(len(cut)):
                expected += [bits[file][row] for file, row in cut[i]]
    wanted = torch.from_numpy(to_float(np.stack(expected)) * np.float32(1 / cache.scale))
    resumed = stream(cache, seed=5, window=size)
    resumed.load_state_dict({**resumed.state_dict(), "batches": begin})
    assert torch.equal(torch.cat(list(resumed)), wanted[begin * 128 : 46 * 128])


def test_every_batch_is_announced_once_and_some_batches_early(
    cache: ActivationCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saemd.activations.disk.cache._ANNOUNCED_BYTES", 4 * 128 * 8 * 2)  # four batches
    announced, read, early, real = [], [], [], BatchPlan.read

    def reading(plan: BatchPlan, factor: np.float32) -> torch.Tensor:
        read.append(plan.parts)
        early.append(len(announced) - len(read))
        return real(plan, factor)

    monkeypatch.setattr(BatchPlan, "announce", lambda plan: announced.append(plan.parts))
    monkeypatch.setattr(BatchPlan, "read", reading)
    assert len(list(stream(cache, prefetch=0))) == 46
    assert announced == read
    assert early == [5] * 41 + [4, 3, 2, 1, 0]


def test_a_shard_that_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    found = make(tmp_path / "cache")
    for shard in found.manifest.splits["train"].shards:
        (found.path / shard.file).unlink()
    with pytest.raises(UserError, match=r"train-\d+.bin: this shard is missing"):
        next(iter(stream(found, window=600)))


def test_shards_deleted_while_they_are_read_do_no_harm(tmp_path: Path) -> None:
    """A cache deleted by another program: what is open stays readable."""
    found = make(tmp_path / "cache")
    wanted = list(found.stream(128, 2 * N, seed=0))
    iterator = iter(found.stream(128, 2 * N, seed=0))
    first = next(iterator)
    for shard in found.manifest.splits["train"].shards:
        (found.path / shard.file).unlink()
    assert all(torch.equal(a, b) for a, b in zip([first, *iterator], wanted, strict=True))


def test_many_shards_do_not_stay_open(tmp_path: Path) -> None:
    found = make(tmp_path / "cache", shard_tokens=40)
    assert len(found.manifest.splits["train"].shards) > 70
    before, most = len(os.listdir("/proc/self/fd")), 0
    for _ in stream(found, tokens=10 * N, window=300):  # ten epochs
        most = max(most, len(os.listdir("/proc/self/fd")))
    assert 64 <= most - before < 64 + 40 * 10  # those kept, and the ten of each batch under way or announced
