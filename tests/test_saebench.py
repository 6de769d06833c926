"""SAEBench's scores without SAEBench: its JSON's keys, Gemma Scope's files, the caller against a scripted worker."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from saemd.errors import UserError
from saemd.quality.saebench import caller, environment, gemma_scope, job, settings
from saemd.quality.saebench.caller import Measured, measurer, run_worker
from saemd.quality.saebench.results import KEYS
from saemd.quality.saebench.scores import SAEBENCH_SCORES
from saemd.quality.saebench.translate import beginning_with_bos, translated_config, translated_tokenizer
from saemd.quality.score import Outcome, Subject
from saemd.sae import JumpReLUSAE

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


@pytest.mark.parametrize("evaluation", KEYS)
def test_each_score_is_read_from_its_key(evaluation):
    result, value, std = RESULTS[evaluation]
    reading = KEYS[evaluation].read(result, headline=2)
    assert reading.value == pytest.approx(value)
    assert reading.std == (None if std is None else pytest.approx(std))


def test_every_figure_of_saebench_is_kept_and_one_that_is_not_a_number_is_no_score():
    reading = KEYS["absorption"].read(RESULTS["absorption"][0])
    assert reading.values == {"mean.mean_full_absorption_score": 0.2, "mean.mean_absorption_fraction_score": 0.4}
    for broken in (-1, float("nan"), None):
        core = {"eval_result_metrics": {"model_performance_preservation": {"ce_loss_score": broken}}}
        with pytest.raises(ValueError, match=r"no model_performance_preservation.ce_loss_score"):
            KEYS["core"].read(core)
    with pytest.raises(ValueError, match=r"no scr_metrics.scr_metric_threshold_20"):
        KEYS["scr"].read(RESULTS["scr"][0], headline=20)
    minus_one = {"eval_result_metrics": {"scr_metrics": {"scr_metric_threshold_2": -1.0}}, "eval_result_details": []}
    assert KEYS["scr"].read(minus_one, headline=2).value == -1  # a number there


def test_repetitions_are_averaged_and_spread_over_their_seeds(tmp_path):
    measured = Measured()
    for seed, score in enumerate((0.1, 0.3)):
        path = tmp_path / f"{seed}.json"
        path.write_text(json.dumps({"eval_result_metrics": {"unlearning": {"unlearning_score": score}}}))
        measured.add({"result": str(path), "extra": {}, "seconds": 2.0})
    found = measured.outcome("unlearning", None, {}, {})
    assert (found.value, found.repetitions, found.seconds) == (pytest.approx(0.2), 2, 4.0)
    assert found.std == pytest.approx(0.2 / 2**0.5)
    assert found.spread == "seeds of its draws"


def test_scores_and_keys_name_the_same_evaluations():
    assert len(SAEBENCH_SCORES) == len(KEYS) == 9
    assert all(name == score.name and score.name.startswith("saebench_") for name, score in SAEBENCH_SCORES.items())


def test_settings_are_refused_where_they_make_no_sense(monkeypatch):
    with pytest.raises(UserError, match="headline=20: one of k_values"):
        settings.ProbingSettings(headline=20)
    with pytest.raises(UserError, match="repetitions=2: 1: core has no draws"):
        settings.CoreSettings(repetitions=2)
    with pytest.raises(UserError, match="llm_dtype=int8"):
        settings.TppSettings(llm_dtype="int8")
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UserError, match="key_variable=SOME_KEY: not set"):
        settings.endpoint_key("SOME_KEY")
    assert settings.endpoint_key("") == "none"


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
    typed = OmegaConf.structured(settings.RavelSettings)
    less = OmegaConf.from_dotlist(["entity_attribute_selection={nobel_prize_winner: []}"])
    changed: Any = OmegaConf.to_object(OmegaConf.merge(typed, less))
    assert changed.entity_attribute_selection == {"city": ["Country", "Continent", "Language"]}
    with pytest.raises(UserError, match=r"^entity_attribute_selection=\{\}: name a type of entity"):
        settings.RavelSettings(entity_attribute_selection={"city": []})


# Gemma Scope


def small_sae(d_in: int = 6, d_sae: int = 10) -> JumpReLUSAE:
    torch.manual_seed(0)
    sae = JumpReLUSAE(d_in, d_sae)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter))
        sae.normalise_decoder()
    return sae


def save_npz(path: Path, sae: JumpReLUSAE, **changed: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: getattr(sae, name).detach().numpy() for name in gemma_scope.PARAMETERS}
    np.savez(path, **{name: value for name, value in {**weights, **changed}.items() if value is not None})
    return path


def test_gemma_scope_is_read_as_it_was_written(tmp_path):
    sae, x = small_sae(), torch.randn(50, 6)
    path = save_npz(tmp_path / gemma_scope.member(82), sae)
    assert gemma_scope.locate(82, str(tmp_path)) == path
    assert (gemma_scope.average_l0(path), gemma_scope.layer_of(path)) == (82, 12)
    read = gemma_scope.read_params(path)
    torch.testing.assert_close(read.encode(x), sae.encode(x))
    torch.testing.assert_close(read(x), sae(x))
    assert (read.W_dec.norm(dim=1) - 1).abs().max() < 1e-6


class Trap:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_gemma_scope_files_that_are_something_else_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sae = small_sae()
    with pytest.raises(UserError, match="lacks threshold"):
        gemma_scope.read_params(save_npz(tmp_path / "a.npz", sae, threshold=None))
    with pytest.raises(UserError, match=r"b_enc has shape \(6,\), not \(10,\)"):
        gemma_scope.read_params(save_npz(tmp_path / "b.npz", sae, b_enc=np.zeros(6)))
    trap = save_npz(tmp_path / "c.npz", sae, b_enc=np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match="cannot be read"):
        gemma_scope.read_params(trap)
    assert not Path("unpickled").exists()
    (tmp_path / "d.npz").write_text("no archive")
    with pytest.raises(UserError, match="no npz"):
        gemma_scope.read_params(tmp_path / "d.npz")
    with pytest.raises(UserError, match="holds no layer_12/width_16k/average_l0_22"):
        gemma_scope.locate(22, str(tmp_path))


# The other environment


def test_the_rotary_base_and_the_tokenizer_survive_the_older_transformers():
    rope = {"rope_theta": 100_000.0, "rope_type": "default"}
    assert translated_config({"a": 1, "rope_parameters": rope}) == {"a": 1, "rope_theta": 100_000.0}
    assert translated_config({"rope_theta": 1e4}) == {"rope_theta": 1e4}  # already the older form
    with pytest.raises(UserError, match="rope_parameters"):
        translated_config({"rope_parameters": {"rope_theta": 1.0, "rope_type": "llama3", "factor": 8.0}})
    for scaling in ({"rope_type": "llama3", "factor": 8.0}, {"type": "linear", "factor": 2.0}):
        with pytest.raises(UserError, match=r"^rope_scaling="):
            translated_config({"rope_theta": 5e5, "rope_scaling": scaling})
    for scaling in (None, {"rope_type": "default"}, {"type": "default"}):
        assert translated_config({"rope_theta": 5e5, "rope_scaling": scaling})["rope_theta"] == 5e5
    assert (
        translated_tokenizer({"tokenizer_class": "TokenizersBackend"})["tokenizer_class"] == "PreTrainedTokenizerFast"
    )


def test_every_text_begins_with_bos_as_in_training():
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<bos>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<bos>"])
    before = json.loads(tokenizer.to_str())
    after = beginning_with_bos(before, {"bos_token": {"content": "<bos>"}})
    assert Tokenizer.from_str(json.dumps(after)).encode("a b").ids == [1, 2, 3]
    assert Tokenizer.from_str(json.dumps(after)).encode("a b", add_special_tokens=False).ids == [2, 3]
    assert beginning_with_bos(after, {"bos_token": "<bos>"}) == after  # not twice
    assert beginning_with_bos(before, {"bos_token": None}) == before
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # type: ignore[assignment]
    kept = beginning_with_bos(json.loads(tokenizer.to_str()), {"bos_token": "<bos>"})
    assert [step["type"] for step in kept["post_processor"]["processors"]] == ["ByteLevel", "TemplateProcessing"]


def test_a_missing_environment_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UserError, match="run `make saebench`"):
        environment.versions()


def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, sae_bench: str = "0.6.0") -> None:
    """An environment whose python answers the question for versions and otherwise runs `script`."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    versions = "\n".join(f"echo {name} {sae_bench}" for name in environment.PACKAGES)
    python.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then\n{versions}\nexit\nfi\n{script}\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "env"))


def test_another_sae_bench_is_refused(tmp_path, monkeypatch):
    scripted(monkeypatch, tmp_path, "", sae_bench="0.4.1")
    with pytest.raises(UserError, match=r"sae-bench=0\.4\.1: 0\.6\.0 is wanted"):
        environment.versions()


def asked(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"evaluation": "unlearning", "work": str(tmp_path), "threads": 1, "model": {"name": "m"}, **more}


def measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> dict[str, Outcome]:
    """Two SAEs, named by their labels, through `measurer` with a scripted worker."""
    scripted(monkeypatch, tmp_path, script)
    monkeypatch.setattr(job, "build", lambda *_: asked(tmp_path))
    monkeypatch.setattr(job, "not_applicable_reason", lambda *_: None)
    monkeypatch.setattr(Subject, "digest", lambda self: self.init * 16)
    weights = tmp_path / "weights"
    subjects = [Subject(init, 4, 0, None, 6, tmp_path, weights, small_sae) for init in ("a", "b")]
    bench: Any = SimpleNamespace(data={})
    return {
        subject.init: found for subject, found in measurer("unlearning")(bench, settings.UnlearningSettings(), subjects)
    }


def test_one_sae_that_fails_does_not_take_the_others(tmp_path, monkeypatch):
    (tmp_path / "result.json").write_text(json.dumps(RESULTS["unlearning"][0]))
    failed = {"name": "a" * 16 + "-0", "error": "no luck", "not_applicable": False}
    done = {"name": "b" * 16 + "-1", "seed": 42, "result": str(tmp_path / "result.json"), "extra": {}, "seconds": 1.0}
    found = measure(monkeypatch, tmp_path, "\n".join(f"echo '{json.dumps(event)}'" for event in (failed, done)))
    assert (found["a"].status, found["a"].reason, found["a"].value) == ("failed", "no luck", None)
    assert (found["b"].status, found["b"].value) == ("done", 0.1)
    assert found["b"].versions["sae-bench"] == "0.6.0"


def test_what_stops_all_of_them_is_raised_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="the model cannot be read"):
        measure(monkeypatch, tmp_path, """echo '{"error": "the model cannot be read"}'; exit 1""")


def test_a_killed_worker_is_told_from_one_that_ended(tmp_path, monkeypatch):
    scripted(monkeypatch, tmp_path, "kill -9 $$")
    with pytest.raises(UserError, match=r"signal 9 \(out of memory\?\)"):
        list(run_worker(asked(tmp_path)))


def test_large_caches_go_with_the_job(tmp_path, monkeypatch):
    scripted(monkeypatch, tmp_path, f"mkdir -p {tmp_path}/seed=42/artifacts/large")
    list(run_worker(asked(tmp_path, evaluation="absorption")))
    assert (tmp_path / "seed=42" / "artifacts").is_dir()
    list(run_worker(asked(tmp_path, evaluation="scr")))
    assert "scr" in caller.LARGE_CACHES
    assert not (tmp_path / "seed=42" / "artifacts").exists()


def test_unlearning_is_for_the_sister_of_the_runs_model_alone(monkeypatch):
    bench: Any = SimpleNamespace(
        lm_config=SimpleNamespace(name="SmolLM2-135M"), info=SimpleNamespace(name="SmolLM2-135M")
    )
    monkeypatch.setattr(job, "packaged_questions", lambda _: SimpleNamespace(said="it answers none"))
    reason = job.not_applicable_reason(bench, settings.UnlearningSettings())
    assert reason == (
        "SAEBench asks gemma-2-2b-it in its own prompt format, so the SAEs must be of gemma-2-2b, not of "
        "SmolLM2-135M; it answers none"
    )
    assert job.not_applicable_reason(bench, settings.TppSettings()) is None
    bench.lm_config.name = "google/gemma-2-2b"
    assert job.not_applicable_reason(bench, settings.UnlearningSettings()) is None
    with pytest.raises(UserError, match="lm=other"):
        job.not_applicable_reason(bench, settings.UnlearningSettings(lm="other"))
