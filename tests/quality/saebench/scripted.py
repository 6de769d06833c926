"""A scripted worker in place of the one in SAEBench's environment."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saemd.quality.saebench import caller, environment
from saemd.quality.saebench.evaluations.unlearning import UNLEARNING, UnlearningSettings
from saemd.quality.score import Outcome, Subject
from saemd.sae import JumpReLUSAE


def small_sae(d_in: int = 6, d_sae: int = 10) -> JumpReLUSAE:
    torch.manual_seed(0)
    sae = JumpReLUSAE(d_in, d_sae)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter))
        sae.normalise_decoder()
    return sae


def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, sae_bench: str = "0.6.0") -> None:
    """An environment whose python answers the question for versions and otherwise runs `script`."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    versions = "\n".join(f"echo {name} {sae_bench}" for name in environment.PACKAGES)
    python.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then\n{versions}\nexit\nfi\n{script}\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "env"))


def worker_job(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"evaluation": "unlearning", "work": str(tmp_path), "threads": 1, "model": {"name": "m"}, **more}


def measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> dict[str, Outcome]:
    """Two SAEs, named by their labels, through `caller.measure` with a scripted worker."""
    scripted(monkeypatch, tmp_path, script)
    monkeypatch.setattr(caller, "build_job", lambda *_: worker_job(tmp_path))
    monkeypatch.setattr(Subject, "digest", lambda self: self.init * 16)
    weights = tmp_path / "weights"
    subjects = [Subject(init, 4, 0, None, 6, tmp_path, weights, small_sae) for init in ("a", "b")]
    bench: Any = SimpleNamespace(data={}, lm_config=SimpleNamespace(name="gemma-2-2b"))  # Unlearning's base model
    outcomes = caller.measure(UNLEARNING, bench, UnlearningSettings(), subjects)
    return {subject.init: outcome for subject, outcome in outcomes}
