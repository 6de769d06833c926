"""Online activations: every training token once an epoch, in an order that settings and seed decide."""

import dataclasses
import itertools
import json
import os
import time
from typing import Any

import numpy as np
import pytest
import torch

from saemd.activations.config import OnlineConfig
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.disk.shards import to_float
from saemd.activations.disk.statistics import norms
from saemd.activations.harvest.kept import kept_bits
from saemd.activations.online.activations import OnlineActivations
from saemd.activations.online.contexts import ContextStore, open_contexts
from saemd.errors import UserError
from tests.activations.caches import CONFIG, D, contexts, forward, make, numbers, origin

CPU = torch.device("cpu")
EVERYTHING = 10_000  # tokens: more than the 500 contexts of 15 kept tokens have


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> ActivationCache:
    return make(tmp_path_factory.mktemp("online") / "cache", tokens=EVERYTHING)


@pytest.fixture
def online(cache, tmp_path):
    """A function that opens the source with other keys; `batches` are the language model's, as first numbers."""

    def opened(**keys) -> Any:
        config = OnlineConfig(tokens=EVERYTHING, context_length=16, lm_batch_tokens=64, buffer_tokens=4000)
        config = dataclasses.replace(config, **keys)
        about = origin(CONFIG, tokens=config.tokens)
        store = open_contexts(about, tmp_path, lambda: contexts("train"))
        limit = cache.manifest.outliers.limit_or_inf

        def harvested(ids_BT, keep_BT):
            source.batches.append(ids_BT[:, 0].tolist())
            bits = kept_bits(forward, ids_BT, keep_BT, about, "float32", "training")
            return torch.from_numpy(bits[norms(bits) <= limit]).view(torch.bfloat16)

        source: Any = OnlineActivations(cache, about, store, harvested, config, CPU)
        source.batches = []
        return source

    return opened


def served(source, tokens, seed=0, batch_size=50) -> list[int]:
    return numbers(torch.cat(list(source.stream(batch_size, tokens, seed))) * source.scale)


def test_an_epoch_has_the_tokens_of_the_cache_once(cache, online):
    cached = [i for shard in cache.manifest.splits["train"].shards for i in numbers(raw(cache, shard))]
    assert cache.n_train == len(cached)
    epoch = served(online(), cache.n_train, batch_size=1)
    assert sorted(epoch) == sorted(cached)
    twice = served(online(), 2 * cache.n_train, batch_size=2)
    assert sorted(twice[: len(epoch)]) == sorted(twice[len(epoch) :]) == sorted(cached)
    assert twice[: len(epoch)] != twice[len(epoch) :]


def raw(cache, shard) -> torch.Tensor:
    return torch.from_numpy(to_float(cache.bits(shard)))


def test_an_epoch_of_fewer_tokens_is_cut_where_the_text_is(online):
    source = online(tokens=1000)
    assert source.store.tokens == 1000
    epoch = set(served(source, 1000 - 1000 // 97 - 5, batch_size=1))
    wanted = [i for i in range(2000) if i % 16][:1000]
    assert epoch <= {i for i in wanted if i % 97}
    assert len(epoch) == 1000 - 1000 // 97 - 5


@pytest.mark.parametrize("taken", [0, 1, 39, 40, 100, 163])
def test_a_resumed_stream_is_the_same_and_harvests_no_block_before_its_own(taken, online):
    """A block has 125 contexts, 1,875 kept tokens without a few outliers: 37 batches and a piece."""
    tokens, whole, begun, resumed = 12_000, online(), online(), online()
    wanted = list(whole.stream(50, tokens, seed=5))
    first = begun.stream(50, tokens, seed=5)
    list(itertools.islice(first, taken))
    again = resumed.stream(50, tokens, seed=5)
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert torch.equal(torch.cat(list(again)), torch.cat(wanted[taken:]))
    before = taken * 50 // 1875 * 32  # language model batches of the blocks before, of 4 contexts each
    assert len(resumed.batches) <= len(whole.batches) - before + 32 * (taken > 1)
    assert len(whole.batches) == 7 * 32, "seven blocks of 125 contexts, and none beyond the last batch"


def test_threads_change_nothing(online):
    wanted = served(online(prefetch_batches=0), 9000)
    alone = online()
    alone.overlaps = False
    assert served(alone, 9000) == served(online(), 9000) == wanted


def test_a_failure_of_the_language_model_ends_the_stream(online):
    source = online()
    real = source.harvest

    def failing(*batch):
        if len(source.batches) == 40:  # in the second block
            raise UserError("not finite")
        return real(*batch)

    source.harvest = failing
    batches = iter(source.stream(50, 7000, seed=0))
    with pytest.raises(UserError, match="not finite"):
        list(batches)
    assert len(source.batches) == 40


def test_a_seed_decides_the_order_of_documents(online):
    a, b = online(), online()
    assert served(a, 3000, seed=1) != served(b, 3000, seed=2)
    assert a.batches[0] != b.batches[0]
    assert served(online(), 3000, seed=1) == served(online(), 3000, seed=1)


def test_processes_divide_each_batch(online):
    whole = online().stream(50, 6000, seed=3)
    parts = [online().stream(50, 6000, seed=3, rank=rank, world=2) for rank in (0, 1)]
    for first, second, batch in zip(*parts, whole, strict=True):
        assert len(first) == len(second) == 25
        assert torch.equal(torch.cat([first, second]), batch)


def test_memory_holds_two_blocks(online, monkeypatch):
    alive, most = set(), [0]
    real = torch.empty

    def counted(*size, **options):
        values = real(*size, **options)
        if size[-1] == D and options.get("dtype") == torch.bfloat16:
            import weakref

            alive.add(id(values))
            weakref.finalize(values, alive.discard, id(values))
            most[0] = max(most[0], len(alive))
        return values

    monkeypatch.setattr(torch, "empty", counted)
    for _ in online().stream(50, 15_000, seed=0):
        time.sleep(0.0002)
    assert 1 <= most[0] <= 3  # two, and the last rows of the one before while its batches are being made


def test_a_closed_stream_stops_the_language_model(online):
    source = online()
    real = source.harvest
    source.harvest = lambda *batch: time.sleep(0.01) or real(*batch)
    batches = iter(source.stream(50, 7000, seed=0))
    next(batches)
    batches.close()
    seen = len(source.batches)
    assert seen < 60, "the second block was not finished"
    time.sleep(0.05)
    assert len(source.batches) == seen


def test_neighbours_come_from_more_contexts_than_in_the_cache(cache, online):
    """Two neighbours in a batch of the cache are of one shard's 32 contexts, online of a block's 125."""
    shares = {}
    for name, source in (("cache", cache), ("online", online())):
        batches = [numbers(batch * source.scale) for batch in source.stream(128, 7000, seed=0)]
        same_context = [a // 16 == b // 16 for batch in batches for a, b in itertools.pairwise(batch)]
        shares[name] = np.mean(same_context)
    assert shares["online"] == pytest.approx(1 / 125, rel=0.5)
    assert shares["online"] < 0.5 * shares["cache"]


def test_another_order_is_refused(online):
    state = online().stream(50, 7000, seed=1).state_dict()
    with pytest.raises(UserError, match="buffer_tokens=4000, this one has 2000; start a new run"):
        online(buffer_tokens=2000).stream(50, 7000, seed=1).load_state_dict(state)


def test_tokenised_text_is_written_once_and_damage_is_said(tmp_path):
    about = origin(CONFIG, tokens=100)
    store = open_contexts(about, tmp_path, lambda: contexts("train"))
    ids, keep = store.read(np.array([6, 0]))
    assert (len(store), store.tokens) == (7, 100)
    assert ids.tolist() == [[*range(96, 112)], [*range(16)]]
    assert keep.sum(1).tolist() == [10, 15]
    open_contexts(about, tmp_path, lambda: pytest.fail("tokenised again"))
    (folder,) = (tmp_path / "contexts").glob("tiny*")
    os.truncate(folder / "contexts.bin", 100)
    with pytest.raises(UserError, match=r"damaged tokenised text .* delete this folder"):
        ContextStore(folder)
