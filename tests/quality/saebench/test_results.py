"""How scores are read from SAEBench's JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from saemd.quality.saebench.caller import outcome_of
from saemd.quality.saebench.evaluations import EVALUATIONS
from saemd.quality.scores import SAEBENCH_SCORES

RESULTS: dict[str, tuple[dict[str, Any], float, float | None]] = {  # evaluation: SAEBench's JSON, score, std
    "core": (
        {"eval_result_metrics": {"model_performance_preservation": {"ce_loss_score": 0.9}, "sparsity": {"l0": 40.0}}},
        0.9, None,
    ),
    "autointerp": (
        {"eval_result_metrics": {"autointerp": {"autointerp_score": 0.7, "autointerp_std_dev": 0.1}},
         "eval_result_unstructured": {"3": {"score": 0.6}, "9": {"score": 0.8}}},
        0.7, 0.2 / 2**0.5,
    ),
    "sparse_probing": (
        {"eval_result_metrics": {"llm": {"llm_test_accuracy": 0.9}, "sae": {"sae_top_2_test_accuracy": 0.75}},
         "eval_result_details": [{"sae_top_2_test_accuracy": 0.7}, {"sae_top_2_test_accuracy": 0.8}]},
        0.75, 0.1 / 2**0.5,
    ),
    "sae_probes": (
        {"eval_result_metrics": {"llm": {}, "sae": {"sae_top_2_test_accuracy": 0.75, "sae_top_5_test_auc": None}},
         "eval_result_details": [{"sae_top_2_test_accuracy": 0.75}]},
        0.75, None,
    ),
    "absorption": (
        {"eval_result_metrics": {"mean": {"mean_full_absorption_score": 0.2, "mean_absorption_fraction_score": 0.4}},
         "eval_result_details": [{"full_absorption_rate": 0.1}, {"full_absorption_rate": 0.3}]},
        0.8, 0.2 / 2**0.5,
    ),
    "ravel": (
        {"eval_result_metrics": {"ravel": {"disentanglement_score": 0.5, "cause_score": 0.3, "isolation_score": 0.7}},
         "eval_result_unstructured": {"city": {"a": {"disentangle_score": 0.4}, "b": {"disentangle_score": 0.6}}}},
        0.5, 0.2 / 2**0.5,
    ),
    "unlearning": ({"eval_result_metrics": {"unlearning": {"unlearning_score": 0.1}}}, 0.1, None),
    "scr": (
        {"eval_result_metrics": {"scr_metrics": {"scr_metric_threshold_2": 0.3, "scr_dir1_threshold_2": 0.2}},
         "eval_result_details": [{"scr_metric_threshold_2": 0.2}, {"scr_metric_threshold_2": 0.4}]},
        0.3, 0.2 / 2**0.5,
    ),
    "tpp": (
        {"eval_result_metrics": {"tpp_metrics": {"tpp_threshold_2_total_metric": 0.05}},
         "eval_result_details": [{"tpp_threshold_2_total_metric": 0.05}]},
        0.05, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_each_score_is_read_from_its_key(evaluation):
    result, value, std = RESULTS[evaluation]
    reading = EVALUATIONS[evaluation].keys.read(result, headline=2)
    assert reading.value == pytest.approx(value)
    assert reading.std == (None if std is None else pytest.approx(std))


def test_every_figure_of_saebench_is_kept_and_one_that_is_not_a_number_is_no_score():
    reading = EVALUATIONS["absorption"].keys.read(RESULTS["absorption"][0])
    assert reading.values == {"mean.mean_full_absorption_score": 0.2, "mean.mean_absorption_fraction_score": 0.4}
    for broken in (-1, float("nan"), None):
        core = {"eval_result_metrics": {"model_performance_preservation": {"ce_loss_score": broken}}}
        with pytest.raises(ValueError, match=r"no model_performance_preservation.ce_loss_score"):
            EVALUATIONS["core"].keys.read(core)
    with pytest.raises(ValueError, match=r"no scr_metrics.scr_metric_threshold_20"):
        EVALUATIONS["scr"].keys.read(RESULTS["scr"][0], headline=20)
    minus_one = {"eval_result_metrics": {"scr_metrics": {"scr_metric_threshold_2": -1.0}}, "eval_result_details": []}
    assert EVALUATIONS["scr"].keys.read(minus_one, headline=2).value == -1  # a number there


def test_repetitions_are_averaged_and_spread_over_their_seeds(tmp_path):
    events = []
    for seed, score in enumerate((0.1, 0.3)):
        path = tmp_path / f"{seed}.json"
        path.write_text(json.dumps({"eval_result_metrics": {"unlearning": {"unlearning_score": score}}}))
        events.append({"result": str(path), "extra": {}, "seconds": 2.0})
    found = outcome_of(events, EVALUATIONS["unlearning"].keys, None, {}, {})
    assert (found.value, found.repetitions, found.seconds) == (pytest.approx(0.2), 2, 4.0)
    assert found.std == pytest.approx(0.2 / 2**0.5)
    assert found.spread == "seeds of its draws"


def test_every_evaluation_is_a_score():
    assert len(SAEBENCH_SCORES) == len(EVALUATIONS) == 9
    assert all(name == score.name and score.name.startswith("saebench_") for name, score in SAEBENCH_SCORES.items())
