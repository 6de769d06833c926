"""Sweeps as commands of their own, and what they left behind."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saemd import jobs

Finished = subprocess.CompletedProcess[str]


@pytest.fixture
def train(world) -> Callable[..., Finished]:
    """Run a sweep in a process of its own."""

    def run(*words: str) -> Finished:
        return subprocess.run(sweep_command(world, *words), capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def serial(world, tmp_path_factory) -> Callable[..., dict[str, str]]:
    """The result of a sweep whose jobs run one after another, in this process; each is run once."""
    known: dict[tuple[str, ...], dict[str, str]] = {}

    def run(*words: str) -> dict[str, str]:
        if words not in known:
            run_root = tmp_path_factory.mktemp("serial")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["saemd"])  # which the entry sets
                assert jobs.main(["-m", *world, "init=uniform", *words, f"run_root={run_root}"]) == 0
            known[words] = result(run_root)
        return known[words]

    return run


def sweep_command(world: list[str], *words: str) -> list[str]:
    return [sys.executable, "-m", "saemd.train", "-m", *world, "init=uniform", *words]


def result(run_root: Path) -> dict[str, str]:
    """Digests of each run's weights and of the comparison."""
    files = [*run_root.rglob("sae_weights.safetensors"), run_root / "stability" / "stability.json"]
    return {str(file.relative_to(run_root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def failures(run: Finished) -> list[str]:
    """The lines on failed jobs."""
    return [line for line in run.stderr.splitlines() if line.startswith("failed")]
