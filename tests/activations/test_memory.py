"""Activations in memory are those of the cache, in the same order; where they do not fit, one line says so."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from saemd.activations import sizes
from saemd.activations.disk.cache import ActivationCache
from saemd.activations.joined import JoinedStream
from saemd.activations.memory import open as harvest_memory
from saemd.activations.memory.activations import MemoryActivations, read_cache
from saemd.activations.streams import stream, transfer
from saemd.composition import compose_all
from saemd.runs import run_dir
from tests.activations.caches import make
from tests.pipeline import same

CPU = torch.device("cpu")
RUN = Path("init=uniform/l0=4/seed=24")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> ActivationCache:
    return make(tmp_path_factory.mktemp("memory") / "cache")


@pytest.fixture(scope="module")
def another(tmp_path_factory) -> ActivationCache:
    return make(tmp_path_factory.mktemp("another") / "cache", tokens=2500)


@pytest.fixture(autouse=True)
def forgotten():
    """Each test begins without activations of the one before."""
    harvest_memory._held.clear()
    harvest_memory._last.clear()
    yield
    harvest_memory._last.clear()


@pytest.mark.parametrize("prefetch", [0, 3])
def test_batches_are_the_caches(cache, prefetch):
    memory = MemoryActivations(read_cache(cache, CPU), window_tokens=700, prefetch_batches=prefetch)
    cache = ActivationCache(cache.path, cache.manifest, verify=True, window_tokens=700)
    for a, b in zip(memory.stream(128, 7000, seed=3), cache.stream(128, 7000, seed=3), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(memory.heldout(100), cache.heldout(100), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(memory.sample(500, seed=1), cache.sample(500, seed=1))
    assert (memory.scale, memory.summary()) == (cache.scale, cache.summary())
    assert torch.equal(memory.mean, cache.mean)


@pytest.mark.parametrize(("seeds", "of"), [([3, 4, 3, 5], "aaaa"), ([3, 3], "aa"), ([3, 4, 3, 4, 3], "abbaa")])
def test_batches_gathered_by_index_are_the_streams(cache, another, seeds, of):
    """As a stack on a GPU has them, from the start and from a checkpoint; its members may be of several sources."""
    held = {name: MemoryActivations(read_cache(c, CPU), 700) for name, c in (("a", cache), ("b", another))}
    memory = [held[name] for name in of]
    for taken in (0, 7):
        apart, gathered = (JoinedStream(memory, 128, 7000, seeds) for _ in range(2))
        if taken:
            begun = JoinedStream(memory, 128, 7000, seeds)
            for _, _ in zip(range(taken), begun, strict=False):
                pass
            for stream in (apart, gathered):
                stream.load_state_dict(begun.state_dict())
        pairs = zip(apart, gathered.gathered(), strict=True)
        for n, (a, b) in enumerate(pairs, start=taken + 1):
            assert torch.equal(a, b)
            assert gathered.state_dict() == apart.state_dict()
            assert gathered.state_dict()["members"][0]["batches"] == n
        assert n == 7000 // 128


@pytest.mark.parametrize("kind", ["cache", "memory"])
def test_batches_for_a_gpu_are_sent_as_they_are_stored(cache, kind, monkeypatch):
    """In bfloat16, and widened and scaled there to the same numbers."""
    sent = []

    def sender(device, factor):
        return lambda x_BD: sent.append(x_BD.dtype) or transfer.scaled(x_BD, factor)

    monkeypatch.setattr(stream, "sender", sender)
    source = cache if kind == "cache" else MemoryActivations(read_cache(cache, CPU))
    here, there = (source.stream(128, 3000, seed=3) for _ in range(2))
    there.device = CPU
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert sent == [torch.bfloat16] * (3000 // 128)


def test_a_cache_stays_on_the_disk_where_there_is_no_gpu(cache):
    assert harvest_memory.resident(cache, CPU) is cache


def test_a_cache_moves_to_a_gpu_that_has_room(cache, monkeypatch):
    monkeypatch.setattr(harvest_memory, "read_cache", lambda cache, device: read_cache(cache, CPU))
    device = torch.device("cuda", 0)
    needed = 2 * cache.d_in * (cache.n_train + cache.n_heldout)
    monkeypatch.setattr(harvest_memory, "free_memory", lambda device: 2 * needed - 2)
    assert harvest_memory.resident(cache, device) is cache
    monkeypatch.setattr(harvest_memory, "free_memory", lambda device: 2 * needed)
    moved = harvest_memory.resident(cache, device)
    assert isinstance(moved, MemoryActivations)
    assert torch.equal(next(iter(moved.stream(128, 3000, 3))), next(iter(cache.stream(128, 3000, 3))))


def test_a_stream_goes_on_from_the_other_sources_state(cache):
    memory = MemoryActivations(read_cache(cache, CPU))
    whole, begun, resumed = (source.stream(128, 3000, seed=3) for source in (cache, cache, memory))
    batches = iter(begun)
    for _ in range(5):
        next(batches)
    resumed.load_state_dict(begun.state_dict())
    assert torch.equal(torch.cat(list(resumed)), torch.cat(list(whole)[5:]))
    old = {key: value for key, value in begun.state_dict().items() if key != "lm_dtype"}  # of an earlier version
    resumed.load_state_dict(old)
    assert torch.equal(torch.cat(list(resumed)), torch.cat(list(whole)[5:]))


def test_a_run_from_memory_is_the_run_from_the_cache(world, command, tmp_path, capsys):
    arguments = [*world, "init=uniform", "tokens=1024", f"cache_root={tmp_path / 'root'}"]
    memory = [*arguments, "activations=memory", f"run_root={tmp_path / 'memory'}"]
    assert command(*memory) == 0
    assert not (tmp_path / "root" / "activations").exists()
    assert command(*arguments, f"run_root={tmp_path / 'cache'}") == 0
    assert same(tmp_path / "memory" / RUN, tmp_path / "cache" / RUN)
    metrics = [json.loads((tmp_path / name / RUN / "metrics.json").read_text()) for name in ("memory", "cache")]
    for key in ("fvu", "l0", "loss", "held_out_tokens"):
        assert metrics[0][key] == metrics[1][key]
    about = [yaml.safe_load((tmp_path / name / RUN / "config.yaml").read_text()) for name in ("memory", "cache")]
    for key in ("fingerprint", "sibling_fingerprint", "cache_fingerprint", "cache", "start"):
        assert about[0][key] == about[1][key]
    capsys.readouterr()
    assert command(*arguments, f"run_root={tmp_path / 'memory'}") == 0, "it is finished, whichever source is asked for"
    assert "finished before" in capsys.readouterr().err
    harvest_memory._last.clear()
    assert command(*memory[:-1], f"run_root={tmp_path / 'read'}") == 0
    assert "activations are read into memory from" in capsys.readouterr().err
    assert same(tmp_path / "read" / RUN, tmp_path / "cache" / RUN)


def test_a_sweep_harvests_once(world, command, tmp_path, monkeypatch):
    harvests = []
    real = harvest_memory._harvest
    monkeypatch.setattr(harvest_memory, "_harvest", lambda *given: harvests.append(given) or real(*given))
    sweep = ["-m", *world, f"cache_root={tmp_path / 'root'}", f"run_root={tmp_path}", "init=uniform", "seed=0,1"]
    assert command(*sweep, "activations=memory", "tokens=1024") == 0
    assert len(harvests) == 1
    assert len(list(tmp_path.glob("init=uniform/l0=4/seed=*/metrics.json"))) == 2


def test_a_sweep_over_sources_has_folders(world):
    configs = compose_all(["-m", *world, "init=uniform", "activations=cache,memory"])
    assert [str(run_dir(config)) for config in configs] == [
        f"runs/init=uniform/l0=4/activations={name}/seed=24" for name in ("cache", "memory")
    ]


def test_too_little_memory_is_refused_with_both_sizes(world, command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harvest_memory, "free_memory", lambda device: 200_000)
    arguments = [*world, f"cache_root={tmp_path / 'root'}", f"run_root={tmp_path / 'runs'}", "activations=memory"]
    assert command(*arguments) == 2
    said = capsys.readouterr().err
    assert "error: activations.tokens=6000: they take 232.3 kB of memory and this machine has 200.0 kB free" in said
    assert "activations=cache" in said
    assert "activations=online" in said
    assert command("-m", *arguments, "activations=cache,memory") == 2, "before the first job starts"
    assert not (tmp_path / "root" / "activations").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["activations.device=tpu"], "activations.device=tpu: known are cpu, gpu"),
        (["activations.device=gpu"], "activations.device=gpu: accelerator=cpu trains on the CPU"),
        (["activations.device=gpu", "accelerator=auto"], "activations.device=gpu: this machine has no GPU"),
        (["activations.name=disk"], "activations.name=disk: leave it out"),
        (["activations.buffer_tokens=5"], "activations.buffer_tokens"),
    ],
)
def test_bad_keys_are_refused(words, line, world, command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command(*world, f"run_root={tmp_path}", "activations=memory", *words) == 2
    assert line in capsys.readouterr().err


def test_free_memory_is_below_the_limit_of_the_control_group(tmp_path, monkeypatch):
    whole = sizes.free_memory(CPU)
    assert 10**6 < whole < 2**50
    group = tmp_path
    monkeypatch.setattr(sizes, "_own_group", lambda: group)
    (group / "memory.max").write_text("3000\n")
    (group / "memory.current").write_text("2000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    assert sizes.free_memory(CPU) == 1500
    (group / "memory.max").write_text("max\n")
    assert sizes.free_memory(CPU) > 10**6
