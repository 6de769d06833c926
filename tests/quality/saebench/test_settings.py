"""What may be set for SAEBench's evaluations on a command line, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

from saemd.errors import UserError
from saemd.quality.knowledge import questions
from saemd.quality.saebench.evaluations.autointerp import endpoint_key
from saemd.quality.saebench.evaluations.core import CoreSettings
from saemd.quality.saebench.evaluations.ravel import RavelSettings
from saemd.quality.saebench.evaluations.scr_and_tpp import TPP, TppSettings
from saemd.quality.saebench.evaluations.sparse_probing import ProbingSettings
from saemd.quality.saebench.evaluations.unlearning import UNLEARNING, UnlearningSettings
from saemd.quality.scores import SAEBENCH_SCORES


def test_settings_are_refused_where_they_make_no_sense(monkeypatch):
    with pytest.raises(UserError, match="headline=20: one of k_values"):
        ProbingSettings(headline=20)
    with pytest.raises(UserError, match="repetitions=2: 1: core has no draws"):
        CoreSettings(repetitions=2)
    with pytest.raises(UserError, match="llm_dtype=int8"):
        TppSettings(llm_dtype="int8")
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UserError, match="key_variable=SOME_KEY: not set"):
        endpoint_key("SOME_KEY")
    assert endpoint_key("") == "none"


@pytest.mark.parametrize("score", SAEBENCH_SCORES.values(), ids=lambda score: score.name)
def test_every_setting_can_be_given_on_a_command_line_and_unknown_ones_are_refused(score):
    typed = OmegaConf.structured(score.settings)
    changed: Any = OmegaConf.to_object(OmegaConf.merge(typed, OmegaConf.from_dotlist(["data=some/folder"])))
    assert isinstance(changed, score.settings)
    assert changed == dataclasses.replace(score.settings(), data="some/folder")
    with pytest.raises(ConfigKeyError):
        OmegaConf.merge(typed, OmegaConf.from_dotlist(["no_such_key=1"]))
    json.dumps(changed.config())  # plain data


def test_a_type_of_entity_can_be_left_out_on_a_command_line():
    typed = OmegaConf.structured(RavelSettings)
    less = OmegaConf.from_dotlist(["entity_attribute_selection={nobel_prize_winner: []}"])
    changed: Any = OmegaConf.to_object(OmegaConf.merge(typed, less))
    assert changed.entity_attribute_selection == {"city": ["Country", "Continent", "Language"]}
    with pytest.raises(UserError, match=r"^entity_attribute_selection=\{\}: name a type of entity"):
        RavelSettings(entity_attribute_selection={"city": []})


def test_unlearning_is_for_the_sister_of_the_runs_model_alone(monkeypatch):
    bench: Any = SimpleNamespace(
        lm_config=SimpleNamespace(name="SmolLM2-135M"), info=SimpleNamespace(name="SmolLM2-135M")
    )
    monkeypatch.setattr(questions, "packaged_questions", lambda _: SimpleNamespace(summary="it answers none"))
    reason = UNLEARNING.not_applicable(bench, UnlearningSettings())
    assert reason == (
        "SAEBench asks gemma-2-2b-it in its own prompt format, so the SAEs must be of gemma-2-2b, not of "
        "SmolLM2-135M; it answers none"
    )
    assert TPP.not_applicable(bench, TppSettings()) is None
    bench.lm_config.name = "google/gemma-2-2b"
    assert UNLEARNING.not_applicable(bench, UnlearningSettings()) is None
    with pytest.raises(UserError, match="lm=other"):
        UNLEARNING.not_applicable(bench, UnlearningSettings(lm="other"))
