"""Fixtures of the quality tests: a language model that has learnt its text, and a sweep of finished runs on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from saemd import evaluate
from saemd.quality.bench import Bench
from tests.quality.world import CONTEXT, add_run, learnt_world, rough_sae


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The part of a run's configuration that says what it was trained on."""
    return learnt_world(tmp_path_factory.mktemp("learnt"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bench(learnt: dict[str, Any], cache: Path) -> Bench:
    return Bench(learnt, cache)


@pytest.fixture(scope="session")
def sweep(learnt: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run root: two starts, two L0, two seeds. Not to be written to: `run_root` is a copy."""
    root = tmp_path_factory.mktemp("sweep") / "runs"
    for init, noise in (("mirror", 0.2), ("uniform", 0.4)):
        for l0 in (4, 8):
            for seed in (24, 42):
                add_run(root, learnt, rough_sae(seed + l0, noise), init, l0, seed)
    return root


@pytest.fixture
def run_root(sweep: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sweep, tmp_path / "runs"))


@pytest.fixture
def arguments(cache: Path, run_root: Path) -> list[str]:
    """Of an evaluation of `run_root`."""
    core = [f"core.tokens={8 * CONTEXT}", "core.resamples=20"]
    return [f"run_root={run_root}", f"cache_root={cache}", "logger=none", *core]


@pytest.fixture
def run_evaluate(command: Callable[..., int], blank_figures: None) -> Callable[..., int]:
    """Runs `saemd evaluate` in this process, with empty figures; returns its exit code."""
    return partial(command, main=evaluate.main)
