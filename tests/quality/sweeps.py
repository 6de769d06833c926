"""What an evaluation of a run root has written, and a second score, `flaky`, to evaluate with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from saemd.quality import config as quality_config
from saemd.quality import evaluation
from saemd.quality.core import CORE
from saemd.quality.score import Score


def records(run_root: Path) -> list[dict[str, Any]]:
    return json.loads((run_root / "quality" / "quality.json").read_text())


def written(run_root: Path) -> dict[Path, int]:
    """Each run's record of a score, with the time when it was written."""
    return {path: path.stat().st_mtime_ns for path in run_root.glob("init=*/l0=*/seed=*/quality/*.json")}


@dataclass
class FlakySettings:
    """`flaky.…`"""

    level: int = 1


def with_flaky(monkeypatch: pytest.MonkeyPatch, measure: Any, version: str = "1") -> None:
    """Register a second score, `flaky`, beside the core measures."""
    flaky = Score("flaky", "Flaky", "nothing", FlakySettings, measure, version)
    scores = {"core": CORE, "flaky": flaky}
    monkeypatch.setattr(evaluation, "SCORES", scores)
    monkeypatch.setattr(quality_config, "SCORES", scores)
    monkeypatch.setattr(quality_config, "FullConfig", quality_config.full_config(scores))
