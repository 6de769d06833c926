"""Several workers harvest at the same time: the same bytes as one, and errors in their place."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock, get_ident

import pytest
import torch

from saemd.activations.config import ActivationsConfig
from saemd.activations.harvest.open import LMOnText, ensure_cache
from saemd.corpus.config import CorpusConfig
from saemd.errors import UserError
from saemd.lm.config import LMConfig
from saemd.lm.load import residual_stream
from tests.activations.caches import CONFIG, forward, write
from tests.lm.models import FOLDER
from tests.pipeline import save_jsonl, save_model


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Unsteady:
    """A language model whose batches take random times. It counts them, and fails at the batch with a given token."""

    def __init__(self, fails_at: int | None = None, error: BaseException | None = None) -> None:
        self.fails_at, self.error = fails_at, error
        self.random, self.lock = random.Random(0), Lock()
        self.calls, self.threads = 0, set[int]()

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        with self.lock:
            self.calls += 1
            self.threads.add(get_ident())
            seconds = self.random.choice([0, 0, 0.002])
        time.sleep(seconds)
        if self.error is not None and (ids == self.fails_at).any():
            raise self.error
        return forward(ids)


@pytest.mark.parametrize("n_contexts", [500, 50, 32], ids=["enough text", "short text", "one shard"])
@pytest.mark.parametrize("workers", [2, 5])
def test_the_shards_are_those_of_one_worker(tmp_path: Path, workers: int, n_contexts: int) -> None:
    unsteady = Unsteady()
    write(tmp_path / "one", n_contexts=n_contexts)
    write(tmp_path / "several", forward=unsteady, n_contexts=n_contexts, workers=workers)
    assert contents(tmp_path / "several") == contents(tmp_path / "one")
    assert len(unsteady.threads) > 1


@pytest.mark.parametrize("fails_at", [3, 1000, 2800])
def test_killed_and_resumed_is_the_same_byte_for_byte(tmp_path: Path, fails_at: int) -> None:
    whole, killed, resumed = Unsteady(), Unsteady(fails_at, KeyboardInterrupt()), Unsteady()
    write(tmp_path / "whole", forward=whole)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", forward=killed, workers=2)
    write(tmp_path / "killed", forward=resumed, workers=3)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    complete = fails_at // CONFIG.shard_tokens * CONFIG.shard_tokens // CONFIG.lm_batch_tokens
    assert resumed.calls == whole.calls - complete, "a batch ran that no shard needs"


def test_a_workers_error_is_raised_and_ends_the_others(tmp_path: Path) -> None:
    failing = Unsteady(1000, RuntimeError("worker"))
    with pytest.raises(RuntimeError, match=r"^worker$"):
        write(tmp_path / "cache", forward=failing, workers=2)
    assert failing.calls <= 1000 // CONFIG.lm_batch_tokens + 1 + 2 * 2


def test_bad_activations_are_named_by_their_shard(tmp_path: Path) -> None:
    def broken(ids: torch.Tensor) -> torch.Tensor:
        return torch.where((ids == 1025)[..., None], torch.nan, forward(ids))

    with pytest.raises(UserError, match=r"^activations\.lm_dtype=float32: 8 of .* values for train-00002\.bin are NaN"):
        write(tmp_path / "cache", forward=broken, workers=3)


@pytest.fixture
def model(tmp_path: Path) -> LMConfig:
    return LMConfig(str(save_model(tmp_path / "model", FOLDER)))


def test_a_cache_has_the_same_bytes_with_any_number_of_threads(tmp_path: Path, model: LMConfig) -> None:
    corpus = CorpusConfig(name="text", path=str(save_jsonl(tmp_path / "text.jsonl", 200)))
    config = ActivationsConfig(
        tokens=4000, heldout_tokens=200, context_length=16, lm_batch_tokens=64, shard_tokens=512, lm_dtype="float32"
    )
    before, written = torch.get_num_threads(), list[dict[str, bytes]]()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            cache = ensure_cache(model, 1, corpus, config, tmp_path / str(threads), accelerator="cpu")
            written.append(contents(cache.path))
    finally:
        torch.set_num_threads(before)
    assert written[0] == written[1]


def test_threads_run_the_language_model_at_the_same_time(tmp_path: Path, model: LMConfig) -> None:
    corpus = CorpusConfig(name="none", path=str(tmp_path / "text.jsonl"))
    lm = LMOnText(model, 1, corpus, ActivationsConfig(context_length=16), tmp_path, "cpu", "float32")
    vocabulary = lm.lm.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    batches = [torch.randint(3, vocabulary, (2, 16), generator=torch.Generator().manual_seed(i)) for i in range(12)]
    together = Barrier(3)

    def run(ids: torch.Tensor) -> torch.Tensor:
        together.wait(timeout=10)
        return lm.forward(ids)

    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(run, batches))
    for ids, result in zip(batches, results, strict=True):
        assert torch.equal(result, residual_stream(lm.lm.model, 1, ids))
