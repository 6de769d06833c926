"""Every SAEBench score by SAEBench's own code, offline: a tiny Gemma-2, a made-up params.npz, small local data.

Needs the environment that `make saebench` builds. The worker has SAEBench validate each of its files.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from saemd.quality.saebench import gemma_scope
from saemd.quality.saebench.evaluations.absorption import AbsorptionSettings
from saemd.quality.saebench.evaluations.sae_probes import SaeProbesSettings
from saemd.quality.saebench.evaluations.scr_and_tpp import ScrSettings, TppSettings
from saemd.quality.saebench.evaluations.unlearning import UnlearningSettings
from saemd.quality.score import Subject
from tests.quality.saebench import world as tiny
from tests.quality.saebench.real import CHOSEN, NEEDS_SAEBENCH, SHIFT, SMALL, measure

pytestmark = NEEDS_SAEBENCH


@pytest.mark.parametrize("score", CHOSEN)
def test_each_score_comes_out_of_saebench_itself(world, score):
    chosen = replace(CHOSEN[score], data=str(world.data))
    if isinstance(chosen, UnlearningSettings):
        chosen = replace(chosen, lm=str(world.root / "gemma-2-2b-it"))
    for outcome in measure(world, score, chosen):
        assert outcome.status == "done", outcome.reason
        assert outcome.value is not None
        assert math.isfinite(outcome.value)
        assert outcome.versions["sae-bench"] == "0.6.0"
        for file in outcome.details["results"]:
            assert json.loads(Path(file).read_text())["sae_cfg_dict"]["d_sae"] == tiny.D_SAE


def test_what_ravel_changes_reaches_the_answers(world):
    """A mask that lets other attributes through would leave isolation at 1 and cause at 0: here neither is."""
    (outcome,) = measure(world, "ravel", replace(CHOSEN["ravel"], data=str(world.data)), world.run)
    assert (outcome.values["ravel.cause_score"] or 0) > 0.1
    assert (outcome.values["ravel.isolation_score"] or 0) < 1


def test_repetitions_have_seeds_of_their_own(world):
    chosen = TppSettings(**SMALL, **SHIFT, data=str(world.data), repetitions=2, headline=2)
    (outcome,) = measure(world, "tpp", chosen, world.run)
    assert (outcome.repetitions, outcome.spread) == (2, "seeds of its draws")
    assert len(set(outcome.details["results"])) == 2


def test_a_missing_data_set_and_one_too_small_are_told_in_one_line(world, tmp_path):
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    (tmp_path / "empty").mkdir()
    nothing = TppSettings(**SMALL, **SHIFT, data=str(tmp_path / "empty"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in offline.items():
            patch.setenv(name, value)
        (missing,) = measure(world, "tpp", nothing, world.run)
    assert missing.status == "failed"
    assert missing.reason is not None
    assert missing.reason.startswith("a data set cannot be had")
    assert "LabHC/bias_in_bios" in missing.reason
    small = ScrSettings(**SMALL, **{**SHIFT, "train_set_size": 400}, data=str(world.data))
    (outcome,) = measure(world, "scr", small, world.run)
    assert (outcome.status, outcome.value) == ("failed", None)
    assert outcome.reason is not None
    assert outcome.reason.startswith("a data set is too small")
    assert "\n" not in outcome.reason + missing.reason
    few = TppSettings(**SMALL, **{**SHIFT, "train_set_size": 4000}, data=str(world.data))
    (outcome,) = measure(world, "tpp", few, world.run)
    assert outcome.reason is not None
    assert "has fewer texts than train_set_size=4000 and test_set_size=32 ask for" in outcome.reason


def test_an_sae_of_another_layer_or_width_fails_alone(world, tmp_path):
    path = tiny.save_gemma_scope(tmp_path, world.scope.load(), layer=2)
    stranger = Subject(
        "gemma-scope", 82, None, None, tiny.D_MODEL, tmp_path, path, partial(gemma_scope.read_params, path)
    )
    chosen = CHOSEN["core"]
    other, fine = measure(world, "core", chosen, stranger, world.run)
    assert other.reason == f"gemma_scope={path}: this SAE is of layer 2, the runs are of layer {tiny.LAYER}"
    assert fine.status == "done"


def test_what_the_model_cannot_do_is_not_applicable_with_what_was_measured(world):
    letters = AbsorptionSettings(**SMALL, min_GT_probe_f1=0.999, max_k_value=2)
    (outcome,) = measure(world, "absorption", letters, world.run)
    assert (outcome.status, outcome.value) == ("not applicable", None)
    assert outcome.reason is not None
    assert "of 26 first letters can be read from this layer (F1 above 0.999), 20 are wanted" in outcome.reason


def test_another_list_of_sae_probes_data_sets_passes_only_new_texts(world):
    one, other = "119_us_state_TX", "22_headline_isobama"
    chosen = SaeProbesSettings(include_llm_baseline=False, ks=[1], dataset_names=[one])
    (first,) = measure(world, "sae_probes", chosen, world.run)
    (kept,) = world.bench.folder("saebench").glob("last-tokens-*/*/*.pt")  # the probes on the layer used it too
    before = kept.stat().st_mtime_ns
    (both,) = measure(world, "sae_probes", replace(chosen, dataset_names=[one, other]), world.run)
    assert len(list(kept.parent.iterdir())) == 2
    assert kept.stat().st_mtime_ns == before
    assert (first.repetitions, both.repetitions) == (1, 2)
    (again,) = measure(world, "sae_probes", replace(chosen, ks=[1, 2]), world.run)
    assert again.value == first.value
    assert again.values.keys() > first.values.keys()
    (wrong,) = measure(world, "sae_probes", replace(chosen, dataset_names=[one, "119_us_state_T"]), world.run)
    assert wrong.status == "failed"
    assert wrong.reason is not None
    assert wrong.reason.startswith("dataset_names=119_us_state_T: sae-probes has 113 data sets; near this name: 119")
