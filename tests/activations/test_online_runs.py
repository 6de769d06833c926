"""Runs from online activations: from the command to the report."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import Gemma2Config

from saemd import cache as cache_entry
from saemd.activations.config import OnlineConfig
from saemd.activations.harvest import open as harvest
from saemd.activations.joined import JoinedStream
from saemd.activations.online import open as harvest_online
from saemd.activations.registry import describe_source, open_source
from saemd.composition import compose_all
from saemd.errors import UserError
from saemd.quality.bench import Bench
from saemd.runs import run_dir
from saemd.stability import __main__ as stability
from tests.pipeline import WORDS, same, save_jsonl, save_model

RUN = Path("init=uniform/l0=4/seed=24")


@pytest.fixture
def arguments(world, tmp_path) -> list[str]:
    keys = [word for word in world if "window_tokens" not in word]
    return [*keys, "init=uniform", "activations=online", f"cache_root={tmp_path / 'root'}", "tokens=4096"]


def test_a_run_is_measured_as_one_from_the_cache(world, command, arguments, tmp_path, capsys):
    assert command(*arguments, f"run_root={tmp_path / 'online'}") == 0
    assert command(*world, "init=uniform", "tokens=4096", f"run_root={tmp_path / 'cache'}") == 0
    metrics = [json.loads((tmp_path / name / RUN / "metrics.json").read_text()) for name in ("online", "cache")]
    assert metrics[0]["held_out_tokens"] == metrics[1]["held_out_tokens"] == 600
    assert metrics[0]["fvu"] == pytest.approx(metrics[1]["fvu"], abs=0.1)
    about = [yaml.safe_load((tmp_path / name / RUN / "config.yaml").read_text()) for name in ("online", "cache")]
    assert about[0]["sibling_fingerprint"] != about[1]["sibling_fingerprint"]
    assert about[0]["config"]["activations"]["name"] == "online"
    capsys.readouterr()
    assert command(*arguments, f"run_root={tmp_path / 'online'}") == 0
    assert "finished before" in capsys.readouterr().err
    assert command(*arguments, f"run_root={tmp_path / 'cache'}") == 2
    assert "activations.buffer_tokens: None there, 524288 asked for" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_over_sources_is_compared_across_them(command, arguments, tmp_path):
    sweep = ["-m", *arguments, f"run_root={tmp_path / 'runs'}", "tokens=1024", "seed=0,1"]
    assert command(*(w for w in sweep if w != "activations=online"), "activations=cache,memory,online") == 0
    runs = sorted(path.parent.parent.name for path in (tmp_path / "runs").rglob("metrics.json"))
    assert runs == sorted(2 * ["activations=cache", "activations=memory", "activations=online"])
    records = json.loads((tmp_path / "runs" / "stability" / "stability.json").read_text())
    assert len(records) == 3, "each source's two seeds"
    assert command(f"run_root={tmp_path / 'runs'}", "across=activations", main=stability.main) == 0
    across = json.loads((tmp_path / "runs" / "across=activations" / "stability.json").read_text())
    assert len(across) == 6, "three pairs of sources, for each seed"


def test_a_finished_run_is_evaluated_on_its_model_and_text(arguments, tmp_path):
    """The bench of `saemd evaluate` reads the keys of every source, and finds the run's activations unchanged."""
    for source in ("online", "memory", "cache"):
        (config,) = compose_all([*arguments, f"activations={source}"])
        about = describe_source(config.lm, config.layer, config.corpus, config.activations, Path(config.cache_root))
        saved = dataclasses.asdict(config)
        bench = Bench(saved, Path(config.cache_root))
        assert type(bench.activations) is type(config.activations)
        run: Any = SimpleNamespace(d_in=16, config=saved, saved={"cache_fingerprint": about.fingerprint}, path=tmp_path)
        bench.refuse_other_origin(run)
    saved["activations"] = {"name": "cloud"}
    with pytest.raises(UserError, match=r"activations\.name=cloud: known are cache, memory, online"):
        Bench(saved, Path(config.cache_root))


def test_the_language_model_waits_for_the_first_batch(arguments, monkeypatch):
    (config,) = compose_all(arguments)
    opened = lambda: open_source(  # noqa: E731
        config.lm, config.layer, config.corpus, config.activations, Path(config.cache_root), accelerator="cpu"
    )
    opened()

    def load(*given, **more):
        raise UserError("it is loaded")

    monkeypatch.setattr(harvest, "load_lm", load)
    source = opened()
    assert source.sample(10).shape == (10, 16)
    assert len(torch.cat(list(source.heldout(100)))) == 600
    with pytest.raises(UserError, match="it is loaded"):
        next(iter(source.stream(64, 4096, seed=0)))


def test_streams_of_two_seeds_can_be_read_in_turn(arguments):
    """As a stack of SAEs reads them: both run one language model, each in its own thread."""
    (config,) = compose_all([*arguments, "activations.buffer_tokens=256"])
    root = Path(config.cache_root)
    source = open_source(config.lm, config.layer, config.corpus, config.activations, root, accelerator="cpu")
    wanted = [list(source.stream(64, 4096, seed)) for seed in (1, 2)]
    joined = JoinedStream([source] * 2, 64, 4096, [1, 2])
    for i, batch in enumerate(joined):
        assert torch.equal(batch, torch.stack([wanted[0][i], wanted[1][i]]))


def test_scale_and_held_out_activations_are_the_full_caches(world, monkeypatch):
    """With fewer tokens for the statistics than the run has: the same outliers' limit, and nearly the same scale."""
    monkeypatch.setattr(harvest_online, "STATISTICS_TOKENS", 100)
    sources = []
    for name in ("cache", "online"):
        (config,) = compose_all([*(word for word in world if "window" not in word), f"activations={name}"])
        root = Path(config.cache_root)
        sources.append(open_source(config.lm, config.layer, config.corpus, config.activations, root, accelerator="cpu"))
    cached, online = sources
    assert online.first.n_train == 2048, "one whole shard"
    assert online.first.manifest.outliers == cached.manifest.outliers
    assert online.scale == pytest.approx(cached.scale, rel=0.02)
    raw = [torch.cat(list(source.heldout(100))) * source.scale for source in sources]
    torch.testing.assert_close(raw[0], raw[1], rtol=1e-6, atol=0)


def test_more_tokens_than_text_are_said(command, arguments, tmp_path, capsys):
    text = save_jsonl(tmp_path / "few.jsonl", 90)
    assert command(*arguments, f"corpus.path={text}", f"run_root={tmp_path}", "activations.tokens=8000") == 0
    said = capsys.readouterr().err
    ended = re.search(r"ended after ([\d,]+) of the 8,000 train tokens asked for; an epoch has these", said)
    assert ended
    assert re.search(rf"tokens=4,096 are 1\.\d epochs of the {ended[1]} training tokens of text", said)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["activations.buffer_tokens=63"], "activations.buffer_tokens=63: use at least two contexts, 64"),
        (["activations.window_tokens=9"], "activations.window_tokens"),
        (["activations.prefetch_batches=-1"], "activations.prefetch_batches=-1: use 0 or more"),
    ],
)
def test_bad_keys_are_refused(words, line, command, arguments, tmp_path, capsys):
    assert command(*arguments, f"run_root={tmp_path}", *words) == 2
    assert line in capsys.readouterr().err


def test_a_buffer_beyond_the_memory_is_refused(command, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harvest_online, "free_memory", lambda device: 100_000)
    assert command(*arguments, f"run_root={tmp_path}") == 2
    said = capsys.readouterr().err
    assert "activations.buffer_tokens=524288: the buffer takes 422.4 kB of memory and this machine has 100.0 kB" in said
    assert not (tmp_path / "root" / "activations").exists()
    assert command(*arguments, main=cache_entry.main) == 2
    assert "activations=online: it keeps no cache of all activations" in capsys.readouterr().err


def test_the_papers_run_composes():
    (config,) = compose_all(["experiment=paper", "activations=online"])
    assert isinstance(config.activations, OnlineConfig)
    assert (config.activations.tokens, config.activations.context_length) == (500_000_000, 1024)
    (other,) = compose_all(["activations=online", "tokens=16_000_000"])
    assert other.activations.tokens == 16_000_000
    assert run_dir(other) == RUN.parents[2] / "runs/init=mirror/l0=40/seed=24"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("source", ["memory", "online"])
def test_batches_on_a_gpu_are_those_on_the_host(source, arguments):
    batches = []
    for device in ("cpu", "gpu"):
        words = [*arguments, "accelerator=auto", f"activations={source}", f"activations.device={device}"]
        (config,) = compose_all(words)
        root = Path(config.cache_root)
        opened = open_source(config.lm, config.layer, config.corpus, config.activations, root)
        stream = opened.stream(64, 4096, seed=0)
        stream.device = torch.device("cuda", 0)
        batches.append(torch.cat([batch.cpu() for batch in stream]))
        assert torch.cat([batch.cpu() for batch in opened.heldout(100)]).isfinite().all()
    assert torch.equal(*batches)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["memory", "online"])
def test_a_killed_run_of_a_gemma_ends_bit_identical(source, command, tmp_path):
    """kill -9 in the middle, the same command again: the weights of a run that was never stopped."""
    config = Gemma2Config(
        vocab_size=len(WORDS) + 3, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    arguments = [
        "lm=hf", f"lm.name={save_model(tmp_path / 'gemma', config)}", "corpus=files", "layer=1", "l0=4", "threads=1",
        f"corpus.path={save_jsonl(tmp_path / 'text.jsonl', 900)}", f"cache_root={tmp_path / 'cache'}", "logger=none",
        f"activations={source}", "activations.tokens=20000", "activations.heldout_tokens=600", "init=uniform",
        "activations.context_length=32", "activations.shard_tokens=2048", "tokens=65536", "batch_size=64",
        "accelerator=cpu", "checkpoint_minutes=0.001",
    ]  # fmt: skip
    if source == "online":
        arguments.append("activations.buffer_tokens=8192")
    process = subprocess.Popen(
        [sys.executable, "-m", "saemd.train", *arguments, f"run_root={tmp_path / 'killed'}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while step_of(tmp_path / "killed" / RUN / "last.ckpt") < 300:  # of 1,024, behind the fourth block
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / RUN / "metrics.json").is_file()
    assert command(*arguments, f"run_root={tmp_path / 'killed'}") == 0
    assert command(*arguments, f"run_root={tmp_path / 'whole'}") == 0
    assert same(tmp_path / "killed" / RUN, tmp_path / "whole" / RUN)


def step_of(checkpoint: Path) -> int:
    if not checkpoint.is_file():
        return 0
    return torch.load(checkpoint, weights_only=True, mmap=True)["global_step"]
