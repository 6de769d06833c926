"""Seeds that train on disjoint documents: from every source, alone and as stacks, to the comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from saemd.activations.disk.cache import ActivationCache
from saemd.activations.registry import describe_source, open_source
from saemd.composition import compose_all
from saemd.runs import identify, run_dir
from saemd.stability import compare_root
from tests.pipeline import same, train_all

pytestmark = pytest.mark.usefixtures("blank_figures")

SWEEP = ["documents=disjoint", "seed=3,5", "init=mirror", "tokens=1280", "activations.tokens=3000"]


@pytest.mark.parametrize("words", [["together=2"], ["activations=memory"], ["activations=online"]])
def test_every_source_serves_parts(words, world, tmp_path):
    if "activations=online" in words:
        world = [word for word in world if not word.startswith("activations.window_tokens")]
        words = [*words, "activations.buffer_tokens=1024"]
    sweep = [*world, *SWEEP, *words, f"run_root={tmp_path}"]
    assert not train_all(*sweep)
    first, second = compose_all(["-m", *sweep])
    saved = [yaml.safe_load((run_dir(config) / "config.yaml").read_text()) for config in (first, second)]
    assert [values["config"]["documents"] for values in saved] == ["disjoint:3-5"] * 2
    assert [values["cache"]["corpus"] for values in saved] == ["files part 0/2", "files part 1/2"]
    assert saved[0]["cache_fingerprint"] != saved[1]["cache_fingerprint"]
    assert saved[0]["sibling_fingerprint"] == saved[1]["sibling_fingerprint"]
    (record,) = compare_root(tmp_path)
    assert (record["seeds"], record["same_documents"], record["same_start_dec"]) == ([3, 5], False, True)


@pytest.mark.parametrize("source", ["cache", "memory"])
def test_seeds_of_different_documents_share_a_stack(source, world, tmp_path, capsys):
    """Each is trained and measured on its own part's activations."""
    sweep = [*world, *SWEEP, "init=mirror,uniform", f"activations={source}", "recipe.fast=false"]
    assert not train_all(*sweep, f"run_root={tmp_path / 'alone'}")
    capsys.readouterr()
    assert not train_all(*sweep, "together=4", f"run_root={tmp_path / 'together'}")
    assert capsys.readouterr().err.count("4 SAEs together: done") == 1
    runs = [path.parent.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("metrics.json")]
    assert len(runs) == 4
    for run in runs:
        alone, together = tmp_path / "alone" / run, tmp_path / "together" / run
        assert same(alone, together)
        figures = [json.loads((folder / "metrics.json").read_text()) for folder in (alone, together)]
        assert [figures[0][key] for key in ("fvu", "l0", "loss")] == [figures[1][key] for key in ("fvu", "l0", "loss")]


def identity(words: list[str]) -> dict[str, Any]:
    (config,) = compose_all(words)
    origin = describe_source(config.lm, config.layer, config.corpus, config.activations, Path(config.cache_root))
    return identify(config, origin)


def test_runs_on_different_parts_are_siblings(world):
    """Named by the sweep or by hand. Runs on parts and on all documents are not, nor those on halves and thirds."""
    named = [identity([*world, f"seed={seed}", "documents=disjoint:3-5"]) for seed in (3, 5)]
    by_hand = [identity([*world, f"seed={seed}", f"documents={part}"]) for seed, part in ((3, "0/2"), (5, "1/2"))]
    assert [one["cache_fingerprint"] for one in named] == [one["cache_fingerprint"] for one in by_hand]
    assert len({one["sibling_fingerprint"] for one in named + by_hand}) == 1
    assert len({one["fingerprint"] for one in named + by_hand}) == 4
    others = [identity([*world, "seed=5", f"documents={value}"]) for value in ("same", "1/3")]
    assert len({one["sibling_fingerprint"] for one in others + named}) == 3


def test_parts_are_measured_on_the_same_held_out_activations(world, tmp_path):
    """But for outliers, whose limit is each part's own."""
    held_out = []
    for config in compose_all(["-m", *world, *SWEEP, "activations.outlier_factor=null"]):
        source = open_source(config.lm, config.layer, config.corpus, config.activations, tmp_path, accelerator="cpu")
        assert isinstance(source, ActivationCache)
        shards = source.manifest.splits["heldout"].shards
        held_out.append(np.concatenate([source.bits(shard) for shard in shards]))
    assert len(held_out) == 2
    assert np.array_equal(*held_out)
