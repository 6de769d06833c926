"""Runs on different parts of the documents are measured on one bench: their held-out text is the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saemd.activations.registry import describe_source
from saemd.composition import compose_all
from saemd.errors import UserError
from saemd.quality.bench import Bench


def test_parts_share_a_bench(world):
    runs: list[Any] = []
    for config in compose_all(["-m", *world, "seed=3,5", "documents=disjoint"]):
        root = Path(config.cache_root)
        origin = describe_source(config.lm, config.layer, config.corpus, config.activations, root)
        saved = {"cache_fingerprint": origin.fingerprint}
        runs.append(SimpleNamespace(d_in=16, config=dataclasses.asdict(config), saved=saved, path=Path("run")))
    benches = [Bench(run.config, root) for run in runs]
    assert benches[0].fingerprint == benches[1].fingerprint
    for run in runs:
        benches[0].refuse_other_origin(run)
    runs[0].saved = runs[1].saved
    with pytest.raises(UserError, match="are not what it was trained on any more"):
        benches[0].refuse_other_origin(runs[0])
