"""Packaged texts through SAEBench's own code, on the tiny Gemma-2.

Needs the environment that `make saebench` builds.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saemd.quality.packaged import split as on_disk
from saemd.quality.saebench.evaluations.absorption import AbsorptionSettings
from saemd.quality.saebench.evaluations.scr_and_tpp import ScrSettings, TppSettings
from saemd.quality.saebench.evaluations.sparse_probing import ProbingSettings
from saemd.quality.saebench.settings import SAEBenchSettings
from saemd.quality.score import Outcome
from saemd.quality.scores import SAEBENCH_SCORES
from tests.quality.saebench import world as tiny
from tests.quality.saebench.real import NEEDS_SAEBENCH, SMALL, World, measure
from tests.quality.test_packaged import tar

pytestmark = NEEDS_SAEBENCH

SIZES: dict[str, Any] = {"train_set_size": 64, "test_set_size": 32, "context_length": 12, "n_values": [2, 20]}
PAIRS = [["tweet", "editorial"], ["editorial", "tweet"]]
CHOSEN: dict[str, SAEBenchSettings] = {
    "probing": ProbingSettings(
        **SMALL, data="packaged", dataset_names=["opinion_sources", "opinion_sentiment"], probe_train_set_size=64,
        probe_test_set_size=32, context_length=12,
    ),
    "scr": ScrSettings(
        **SMALL, **SIZES, data="packaged", dataset_names=["opinion_source_sentiment"],
        column1_vals_lookup={"opinion_source_sentiment": PAIRS},
    ),
    "tpp": TppSettings(**SMALL, **SIZES, data="packaged", dataset_names=["opinion_sources"]),
}  # fmt: skip


@pytest.fixture
def sentences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An archive of opinions in the tiny model's words: a source and a mood have first letters of their own."""
    draw = random.Random(0)
    files = {"movieReviewSnippets": "ab", "amazonReviewSnippets": "cd", "tweets": "ef", "nytEditorialSnippets": "gh"}

    def sentence(letters: str, mood: str) -> str:
        words = [draw.choice(tiny.INVENTED[letter]) for letter in letters * 2 + mood * 2]
        return " ".join(draw.sample(words, len(words)))

    inner = {
        f"hutto_ICWSM_2014/{name}_GroundTruth.txt": "".join(
            f"{i}\t{rating}\t{sentence(letters, mood)}\n"
            for i in range(100) for rating, mood in ((-2, "x"), (2, "y"))
        )
        for name, letters in files.items()
    }  # fmt: skip
    archive = tmp_path / "vader.tar.gz"
    archive.write_bytes(tar({"v/hutto_ICWSM_2014.tar.gz": tar({n: t.encode() for n, t in inner.items()})}))
    monkeypatch.setattr(on_disk, "fetch_package", lambda package, cache_root: archive)


def check_names(score: str, outcome: Outcome) -> None:
    """SAEBench measured on packaged texts, under their own names."""
    assert outcome.status == "done", outcome.reason
    (file,) = outcome.details["results"]
    result = json.loads(Path(file).read_text())
    names = {piece["dataset_name"] for piece in result["eval_result_details"]}
    assert all(name.startswith("opinion_") for name in names)
    assert "LabHC" not in Path(file).read_text()
    assert outcome.repetitions == len(names) == (1 if score == "tpp" else 2)
    assert outcome.data["packaged"].keys() == set(CHOSEN[score].dataset_names)  # type: ignore[attr-defined]


ABSORPTION = AbsorptionSettings(**SMALL, max_words=200, min_GT_probe_f1=0.0, min_feats_for_eval=1)


@pytest.mark.parametrize("score", [*CHOSEN, "absorption"])
def test_an_sae_has_its_score_whatever_was_measured_before_it(world: World, sentences, tmp_path, score):
    """Alone, behind another SAE, and again with what was kept: the probes' texts are the same ones."""
    twin = replace(world.run, folder=tmp_path / "twin", seed=7)
    shutil.rmtree(world.bench.folder("saebench"), ignore_errors=True)
    chosen = {**CHOSEN, "absorption": ABSORPTION}[score]
    first, again = measure(world, score, chosen, world.run, world.scope, twin), measure(world, score, chosen, twin)
    assert first[0].values == first[2].values == again[0].values
    if score in CHOSEN:
        for outcome in (*first, *again):
            check_names(score, outcome)


def test_a_size_that_is_not_there_fails_that_score_alone(world: World, sentences):
    too_large = replace(CHOSEN["tpp"], train_set_size=4000)
    with pytest.raises(ValueError, match=r"^train_set_size=4000: at most"):
        list(SAEBENCH_SCORES["saebench_tpp"].measure(world.bench, too_large, [world.run]))
