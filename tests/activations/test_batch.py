"""Making batches: the compiled loop against its reference, over the ends of parts and of files."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from saemd.activations.disk import batch, kernels
from saemd.activations.disk.batch import BatchPlan
from saemd.activations.disk.shards import ShardFile, disk_bytes
from saemd.errors import UserError


def bits(n: int, d: int) -> np.ndarray:
    """Every finite bfloat16 there is: denormals, both zeros, the largest."""
    rows = np.random.default_rng(0).integers(0, 1 << 16, (n, d)).astype(np.uint16)
    return np.where((rows & 0x7F80) == 0x7F80, rows & 0x807F, rows)


def shard(path: Path, bits_ND: np.ndarray) -> ShardFile:
    bits_ND.tofile(path)
    return ShardFile(path, *bits_ND.shape, sha256=None)


@pytest.mark.parametrize("width", [1, 7, 64, 577])
@pytest.mark.parametrize("factor", [1.0, 1 / 146.3, 3e-39, 1e30])
@pytest.mark.parametrize("scratch", [1, 100, 60_000])
def test_compiled_is_the_reference_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, factor: float, scratch: int
) -> None:
    monkeypatch.setattr(batch, "_SCRATCH", scratch)
    rows_ND = bits(300, width)
    first, second = shard(tmp_path / "a", rows_ND[:200]), shard(tmp_path / "b", rows_ND[200:])
    plan = BatchPlan([(second, 30, 70), (first, 0, 1), (first, 120, 80), (second, 0, 30)])
    made = plan.read(np.float32(factor))
    plain_BD = np.empty(made.shape, np.float32)
    with np.errstate(over="ignore", under="ignore"):
        plan.read_plain(np.float32(factor), plain_BD)
    assert np.array_equal(made.numpy().view(np.uint32), plain_BD.view(np.uint32))
    order = [*range(230, 300), 0, *range(120, 200), *range(200, 230)]
    wanted = torch.from_numpy(rows_ND[order]).view(torch.bfloat16).float() * float(np.float32(factor))
    assert torch.equal(made, wanted)


def test_reference_is_taken_without_numba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = BatchPlan([(shard(tmp_path / "a", bits(50, 8)), 3, 40)])
    made = plan.read(np.float32(0.5))
    assert batch._kernels() is kernels
    batch._kernels.cache_clear()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "numba", None)
        patched.delitem(sys.modules, "saemd.activations.disk.kernels")
        patched.delattr("saemd.activations.disk.kernels")
        assert batch._kernels() is None
        plan.announce()
        assert torch.equal(plan.read(np.float32(0.5)), made)
    batch._kernels.cache_clear()


def test_what_was_cut_off_since_it_was_opened_is_refused_by_name(tmp_path: Path) -> None:
    rows_ND = bits(100, 8)
    files = [shard(tmp_path / name, rows_ND) for name in "ab"]
    plan = BatchPlan([(files[0], 0, 10), (files[1], 60, 40), (files[0], 50, 10)])
    plan.read(np.float32(1))
    os.truncate(tmp_path / "b", disk_bytes(80, 8) + 7)
    with pytest.raises(UserError, match=r"b: it ends before token 100; truncated while being read"):
        plan.read(np.float32(1))


def test_an_error_of_the_disk_reaches_the_caller(tmp_path: Path) -> None:
    file = shard(tmp_path / "a", bits(100, 8))
    plan = BatchPlan([(file, 0, 10)])
    plan.read(np.float32(1))
    directory = os.open(tmp_path, os.O_RDONLY)  # a folder: reading from it is an error
    os.dup2(directory, file.fd)
    os.close(directory)
    with pytest.raises(IsADirectoryError):
        plan.read(np.float32(1))


def test_what_is_kept_is_not_overwritten(tmp_path: Path) -> None:
    file = shard(tmp_path / "a", bits(400, 3))
    made = [BatchPlan([(file, i, 4)]).read(np.float32(1)) for i in range(0, 400, 4)]
    assert len({x.data_ptr() for x in made}) == 100


def test_a_shard_is_closed_with_its_last_user(tmp_path: Path) -> None:
    plan = BatchPlan([(shard(tmp_path / "a", bits(20, 3)), 0, 20)])
    fd = plan.parts[0][0].fd
    os.fstat(fd)
    del plan
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_shard_is_checked_once_by_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, calls, start = shard(tmp_path / "a", bits(100, 3)), [], threading.Barrier(4)
    monkeypatch.setattr("saemd.activations.disk.shards.check_content", lambda *given: calls.append(given))

    def work() -> None:
        start.wait()
        BatchPlan([(file, 0, 10)]).read(np.float32(1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [(tmp_path / "a", 100, 3, None)]


def test_announced_tokens_are_read_and_no_others(tmp_path: Path) -> None:
    """All of what was announced is brought, though it is more than Linux takes at once, and no more."""
    d, n = 512, 16_384  # 16 MB
    file = shard(tmp_path / "a", np.ones((n, d), np.uint16))
    os.fsync(file.fd)
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def is_cached(token: int) -> bool:
        try:
            return os.preadv(file.fd, [bytearray(2)], disk_bytes(token + 1, d) - 2, os.RWF_NOWAIT) == 2
        except BlockingIOError:
            return False

    if is_cached(n // 2):
        pytest.skip(
            "TMPDIR is in memory (tmpfs), where there is no disk to bring anything from: name a folder on a disk"
        )
    BatchPlan([(file, 4096, 2048)]).announce()
    deadline = time.monotonic() + 10
    while not all(is_cached(token) for token in range(4096, 6144)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(is_cached(token) for token in range(4096, 6144))
    assert not is_cached(n - 1)
