"""Several processes write one cache: the same bytes as one process, whatever ends and whatever begins in between."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saemd import cache
from saemd.activations.config import ActivationsConfig
from saemd.activations.disk import manifest
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.manifest import Outliers, Piece, read_piece, read_progress, write_json
from saemd.activations.harvest.ledger import UNFINISHED
from saemd.activations.harvest.open import LMOnText
from saemd.activations.harvest.write import joined, lock
from saemd.corpus.config import CorpusConfig
from saemd.lm.config import LMConfig
from tests.activations.caches import forward
from tests.activations.processes import Model, Writer, write
from tests.lm.models import FOLDER
from tests.pipeline import save_model


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The cache that one process writes, and how many batches it runs."""
    model = Model(0)
    write(folder := tmp_path_factory.mktemp("alone") / "cache", model)
    return contents(folder), model.calls


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_one_group_has_no_token_and_leaves_no_gap(alone: tuple[dict[str, bytes], int], tmp_path: Path) -> None:
    """What the other tests compare with is not trivial: groups and shards are numbered differently."""
    write(tmp_path / "cache", Model(0))
    train = ActivationCache.open(tmp_path / "cache", verify=True).manifest.splits["train"]
    assert [shard.file for shard in train.shards] == [f"train-{i:05d}.bin" for i in range(7)]
    assert train.tokens == 3000
    assert train.contexts > 7 * 32
    assert contents(tmp_path / "cache") == alone[0]


@pytest.mark.parametrize("n", [2, 3])
def test_several_processes_write_the_bytes_of_one(tmp_path: Path, alone: tuple[dict[str, bytes], int], n: int) -> None:
    writers = [Writer(tmp_path / "cache") for _ in range(n)]
    batches = [writer.batches() for writer in writers]
    assert contents(tmp_path / "cache") == alone[0]
    assert min(batches) > 0, "a process did nothing"
    assert sum(batches) <= alone[1] + 4 * 8, "more was run twice than what the group without tokens costs"


def test_no_batch_runs_twice_or_in_vain(tmp_path: Path) -> None:
    write(tmp_path / "alone", model := Model(0, activations=forward))
    writers = [Writer(tmp_path / "cache", activations=forward) for _ in range(3)]
    assert sum(writer.batches() for writer in writers) == model.calls
    assert contents(tmp_path / "cache") == contents(tmp_path / "alone")


def test_a_piece_that_is_made_after_the_look_for_it_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process looks for a piece without a lock, and another one writes it at that moment."""
    path, piece = tmp_path / "train-00006.json", Piece(0, None, 0, "", 0, 0, 0, True, Outliers(None, 1.0, None), None)

    def read(path: Path, remedy: str) -> object:
        try:
            return read_json(path, remedy)
        finally:
            write_json(path, piece)

    read_json = manifest.read_json
    monkeypatch.setattr(manifest, "read_json", read)
    assert read_piece(path) is None
    assert read_piece(path) == piece


def test_a_short_text_ends_the_same(tmp_path: Path) -> None:
    for n_contexts in (50, 64):  # within a group, and between two
        write(tmp_path / f"alone-{n_contexts}", Model(0), n_contexts)
        writers = [Writer(tmp_path / f"cache-{n_contexts}", n_contexts=n_contexts) for _ in range(2)]
        for writer in writers:
            writer.batches()
        assert contents(tmp_path / f"cache-{n_contexts}") == contents(tmp_path / f"alone-{n_contexts}")


@pytest.mark.parametrize("seed", range(4))
def test_one_is_killed_and_another_goes_on(tmp_path: Path, alone: tuple[dict[str, bytes], int], seed: int) -> None:
    generator = random.Random(seed)
    killed, other = Writer(tmp_path / "cache"), Writer(tmp_path / "cache")
    killed.wait_until_begun()
    time.sleep(generator.uniform(0, 0.15))
    killed.kill()
    other.batches()
    assert contents(tmp_path / "cache") == alone[0]


def groups_made(folder: Path) -> int:
    """Groups of the training split that no process needs to make again."""
    progress = read_progress(folder)
    committed = progress.splits["train"].contexts // 32 if progress else 0
    waiting = [int(path.stem.split("-")[1]) for path in (folder / UNFINISHED).glob("train-*.json")]
    return committed + sum(number >= committed for number in waiting)


def test_the_number_of_processes_changes_in_between(tmp_path: Path, alone: tuple[dict[str, bytes], int]) -> None:
    for n in (3, 2, 1):
        before = groups_made(tmp_path / "cache")
        writers = [Writer(tmp_path / "cache", 0.01) for _ in range(n)]
        while groups_made(tmp_path / "cache") <= before:
            assert writers[0].process.is_alive()
            time.sleep(0.001)
        for writer in writers:
            writer.kill()
    made = groups_made(tmp_path / "cache")
    assert made
    again = 2 * 8  # of two groups that two processes began before the group without tokens was known
    assert Writer(tmp_path / "cache").batches() <= alone[1] - 8 * made + again, "a finished shard was made again"
    assert contents(tmp_path / "cache") == alone[0]


def test_a_lost_first_group_is_made_by_one_that_waits_for_it(
    tmp_path: Path, alone: tuple[dict[str, bytes], int]
) -> None:
    first = Writer(tmp_path / "cache", stuck=True)
    first.wait_until_begun()
    other = Writer(tmp_path / "cache", 0)
    other.wait_until_begun()
    time.sleep(0.3)  # it has a group whose outliers it cannot know yet
    assert other.process.is_alive()
    assert not list((tmp_path / "cache").glob("*.bin"))
    first.kill()
    other.batches()
    assert contents(tmp_path / "cache") == alone[0]


class Interrupted(Model):
    """Ends at its 30th batch."""

    def __call__(self, ids_BT: torch.Tensor) -> torch.Tensor:
        if self.calls == 30:
            raise KeyboardInterrupt
        return super().__call__(ids_BT)


def test_a_cache_that_an_earlier_version_left_unfinished_goes_on(
    tmp_path: Path, alone: tuple[dict[str, bytes], int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", Interrupted(0))
    shutil.rmtree(tmp_path / "cache" / UNFINISHED)  # such a cache has progress.json and the first shards
    assert (progress := read_progress(tmp_path / "cache"))
    assert progress.splits["train"].contexts == 3 * 32
    writers = [Writer(tmp_path / "cache") for _ in range(2)]
    assert sum(writer.batches() for writer in writers) <= alone[1] - 3 * 8 + 4 * 8
    assert contents(tmp_path / "cache") == alone[0]


def test_a_writer_alone_waits_for_those_that_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = list[str]()
    with joined(tmp_path / "cache", lambda: first.append("a")), joined(tmp_path / "cache", lambda: first.append("b")):
        assert first == ["a"]
        writer = Writer(tmp_path / "cache", 0)
        writer.batches()
    with lock(tmp_path / "cache"):
        assert not capsys.readouterr().err
        late = Writer(tmp_path / "cache", 0)
        late.process.join(0.5)
        assert late.process.is_alive()
    late.batches()


def test_saemd_cache_joins_other_processes(
    world: list[str], command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*world, f"cache_root={tmp_path}", "activations.tokens=600", "activations.heldout_tokens=100"]
    assert command(*arguments, main=cache.main) == 0
    (folder,) = (tmp_path / "activations").glob("[!.]*-layer1-*")
    before = contents(folder)
    shutil.rmtree(folder)
    capsys.readouterr()
    with joined(folder, lambda: None):  # as another process holds it; without joining, the command would wait for ever
        assert command(*arguments, main=cache.main) == 0
    assert "waited for" not in capsys.readouterr().err
    assert contents(folder) == before


def test_a_process_takes_over_the_dtype_of_the_first_one(tmp_path: Path) -> None:
    model = LMConfig(str(save_model(tmp_path / "model", FOLDER)))
    corpus = CorpusConfig(name="none", path=str(tmp_path / "text.jsonl"))
    lm = LMOnText(model, 1, corpus, ActivationsConfig(context_length=16), tmp_path, "cpu", "float32")
    assert lm.lm.model.get_input_embeddings().weight.dtype == torch.float32  # type: ignore[operator]
    lm.use_dtype("bfloat16")
    assert lm.forward(torch.arange(3, 19)[None]).dtype == torch.bfloat16


@pytest.mark.slow
def test_torchrun_writes_what_one_process_writes(world: list[str], tmp_path: Path) -> None:
    """Two processes of torchrun, of which only the first one reports; then a task of Slurm that finds the cache."""
    roots = {name: tmp_path / name for name in ("alone", "together")}

    def run(root: Path, *launcher: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *launcher, "-m", "saemd.cache", *world, f"cache_root={root}"]
        command += ["activations.shard_tokens=512", "activations.lm_batch_tokens=64"]
        command += ["activations.lm_dtype=float32"]  # auto would time products, beside other tests
        return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)

    alone = run(roots["alone"])
    together = run(roots["together"], "-m", "torch.distributed.run", "--nproc-per-node=2")
    folders = [next((root / "activations").glob("[!.]*-layer1-*")) for root in roots.values()]
    assert contents(folders[0]) == contents(folders[1])
    assert together.stdout == alone.stdout.replace(str(roots["alone"]), str(roots["together"]))
    assert together.stderr.count("activations of ") == 1
    second = run(roots["together"], SLURM_PROCID="1", SLURM_NTASKS="2", SLURM_LOCALID="1")
    assert (second.stdout, second.stderr) == ("", "")
