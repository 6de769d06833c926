"""What the tests share: one cache of downloads and converted models for all of them, kept between runs."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

# Heavy packages are imported in fixtures: pytest-xdist's first process reads this file too, and runs no test.

gc.disable()  # until all tests are known: nothing of them is garbage


def pytest_collection_finish() -> None:
    """Spare the collector what modules hold: training collects after each job, which takes as long as a tiny job."""
    gc.enable()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread for each of pytest-xdist's processes.

    Where another process has its core, a thread that the others wait for takes the time of ten.
    """
    from saemd.threads import use_threads

    use_threads(1)


@pytest.fixture(scope="session")
def cache_root() -> Path:
    """$SAEMD_CACHE, by default ~/.cache/saemd, as the entries use it."""
    return Path(os.environ.get("SAEMD_CACHE", Path.home() / ".cache" / "saemd"))


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> list[str]:
    """Overrides that put a tiny model, its text and its cache in the place of the real ones."""
    from transformers import LlamaConfig

    import saemd.seeds  # noqa: F401 - and with it all that training needs, before `gc.freeze`
    from tests.pipeline import WORDS, save_jsonl, save_model

    root = tmp_path_factory.mktemp("world")
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = save_model(root / "model", config)
    text = save_jsonl(root / "text" / "documents.jsonl", 600)
    gc.collect()
    gc.freeze()
    return [
        "lm=hf", f"lm.name={model}", "corpus=files", f"corpus.path={text}", f"cache_root={root / 'cache'}", "layer=1",
        "activations.tokens=6000", "activations.heldout_tokens=600", "activations.context_length=32", "threads=1",
        "activations.shard_tokens=2048", "activations.window_tokens=4096", "tokens=8192", "batch_size=64", "l0=4",
        "logger=none", "accelerator=cpu",
    ]  # fmt: skip


@pytest.fixture
def command(monkeypatch):
    """Run an entry in this process, as typed; returns its exit code. By default the entry is `saemd train`."""
    from saemd import cli, jobs

    def run(*arguments: str, main=jobs.main) -> int:
        monkeypatch.setattr(sys, "argv", ["saemd", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.entry(main)
        return int(ended.value.code or 0)

    return run


@pytest.fixture
def blank_figures(monkeypatch):
    """Every figure is drawn as an empty one: what figures show is for tests/report."""
    from saemd.report.style import new_figure

    for name in (
        "figure2.pair_figure",
        "figure2.grid_figure",
        "summary.summary_figure",
        "binned.rates_figure",
        "binned.ablation_figure",
        "course.course_figure",
        "recurrence.recurrence_figure",
        "score_figures.figure3",
        "score_figures.figure4",
    ):
        monkeypatch.setattr(f"saemd.report.{name}", lambda *_, **__: new_figure(1, 1))
