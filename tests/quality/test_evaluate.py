"""`python -m saemd.evaluate` from the command line to its files: what is measured, what is kept, what fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saemd import evaluate
from saemd.errors import UserError
from saemd.quality.config import compose_evaluation
from saemd.quality.saebench import environment, gemma_scope
from saemd.quality.score import Outcome, not_applicable
from tests.quality.sweeps import records, with_flaky, written
from tests.quality.world import CONTEXT, LAYER, D, add_run, exact_sae
from tests.stability_fakes import fake_run


def save_gemma_scope(folder: Path, width: int) -> Path:
    """Made-up SAEs where a copy of Gemma Scope's repository would have them, for the runs' layer."""
    for l0 in gemma_scope.L0S:
        path = folder / gemma_scope.member(l0, layer=LAYER)
        path.parent.mkdir(parents=True)
        rows = np.concatenate([np.eye(width), -np.eye(width)]).astype(np.float32)
        zeros = np.zeros(2 * width, np.float32)
        np.savez(path, W_enc=rows.T, W_dec=rows, b_enc=zeros, b_dec=zeros[:width], threshold=zeros)
    return folder


def test_gemma_scope_beside_the_runs(run_root, arguments, run_evaluate, tmp_path, capsys):
    folder = save_gemma_scope(tmp_path / "scope", D)
    assert run_evaluate(*arguments, f"gemma_scope={folder}") == 0
    found = {record["l0"]: record for record in records(run_root) if record["init"] == "gemma-scope"}
    assert found.keys() == set(gemma_scope.L0S)
    assert found[82]["value"] == pytest.approx(1, abs=1e-4)  # these reconstruct exactly
    assert (found[82]["seed"], found[82]["achieved_l0"]) == (None, 82)
    assert len(records(run_root)) == 8 + len(found)
    assert "gemma-scope" in capsys.readouterr().out
    assert run_evaluate(*arguments) == 0
    assert len(records(run_root)) == 8  # not asked for, not shown


@pytest.mark.parametrize(("value", "width"), [("hub", D), ("folder", D), ("folder", 2 * D)])
def test_gemma_scope_that_does_not_fit(run_root, arguments, run_evaluate, tmp_path, capsys, value, width):
    place = "hub" if value == "hub" else str(tmp_path / "scope")
    if width != D:
        save_gemma_scope(tmp_path / "scope", width)
    assert run_evaluate(*arguments, f"gemma_scope={place}") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: gemma_scope=")]
    assert len(errors) == 1
    assert not written(run_root)


def test_from_runs_to_report(run_root, arguments, command, capsys):
    """With all figures drawn."""
    assert command(*arguments, main=evaluate.main) == 0
    found = records(run_root)
    assert [(r["init"], r["l0"], r["seed"]) for r in found] == [
        (init, l0, seed) for init in ("mirror", "uniform") for l0 in (4, 8) for seed in (24, 42)
    ]
    for record in found:
        assert record["status"] == "done"
        assert record["score"] == "core"
        assert record["settings"] == {"tokens": 8 * CONTEXT, "outlier_factor": 10.0, "resamples": 20}
        assert record["data"]["contexts"] == 8
        assert record["versions"].keys() == {"saemd", "torch", "transformers"}
        assert 0 < record["value"] < 1
        assert record["std"] > 0
        assert record["achieved_l0"] == pytest.approx(1.03 * record["l0"])  # the run's own metrics.json
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if not line.startswith(("report", "scores", "figures"))) <= 100
    assert re.search(r"Loss Recovered +mirror − uniform +\+", out)
    assert "4 pairs are too few" in out
    page = (run_root / "stability" / "report.html").read_text()
    assert "<h2>Scores</h2>" in page
    assert "Not comparable with published values" in page
    assert page.count("data:image/png") >= 4

    before = written(run_root)
    assert command(*arguments, main=evaluate.main) == 0
    assert written(run_root) == before  # nothing was measured twice


@pytest.mark.slow
def test_only_what_changed_is_measured_again(run_root, arguments, run_evaluate):
    assert run_evaluate(*arguments) == 0
    before = written(run_root)
    changed = run_root / "init=mirror" / "l0=4" / "seed=24"
    weights = load_file(changed / "sae_weights.safetensors")
    save_file({**weights, "b_dec": weights["b_dec"] + 0.01}, changed / "sae_weights.safetensors")
    assert run_evaluate(*arguments) == 0
    assert {path for path, when in written(run_root).items() if before[path] != when} == {
        changed / "quality" / "core.json"
    }
    before = written(run_root)
    assert run_evaluate(*arguments, "core.resamples=21") == 0
    assert all(before[path] != when for path, when in written(run_root).items())


@pytest.mark.slow
def test_what_a_score_was_before_its_definition_changed_is_not_shown(run_root, arguments, run_evaluate, monkeypatch):
    def half(bench: Any, settings: Any, subjects: list) -> Iterator:
        yield from ((subject, Outcome("done", value=0.5)) for subject in subjects)

    def whole(bench: Any, settings: Any, subjects: list) -> Iterator:
        yield from ((subject, Outcome("done", value=1.0)) for subject in subjects)

    with_flaky(monkeypatch, half)
    assert run_evaluate(*arguments, "scores=core,flaky") == 0
    assert [r["value"] for r in records(run_root) if r["score"] == "flaky"] == [0.5] * 8
    with_flaky(monkeypatch, whole, version="2")
    assert run_evaluate(*arguments, "scores=core") == 0
    assert {r["score"] for r in records(run_root)} == {"core"}
    assert run_evaluate(*arguments, "scores=flaky") == 0
    assert [r["value"] for r in records(run_root) if r["score"] == "flaky"] == [1.0] * 8


def test_an_interrupted_evaluation_goes_on(run_root, arguments, run_evaluate, monkeypatch, capsys):
    calls = []

    def stops(bench: Any, settings: Any, subjects: list) -> Iterator:
        for subject in subjects:
            if len(calls) == 3:
                raise KeyboardInterrupt
            calls.append(subject.name)
            yield subject, Outcome("done", value=1.0)

    with_flaky(monkeypatch, stops)
    assert run_evaluate(*arguments, "scores=flaky") == 130
    assert len(written(run_root)) == 3

    def goes_on(bench: Any, settings: Any, subjects: list) -> Iterator:
        for subject in subjects:
            calls.append(subject.name)
            yield subject, Outcome("done", value=1.0)

    with_flaky(monkeypatch, goes_on)
    assert run_evaluate(*arguments, "scores=flaky") == 0
    assert len(calls) == len(set(calls)) == 8


def test_a_failed_score_is_shown_as_failed_and_the_others_go_on(run_root, arguments, run_evaluate, monkeypatch, capsys):
    attempts = []

    def breaks(bench: Any, settings: Any, subjects: list) -> Iterator:
        attempts.append(len(subjects))
        yield subjects[0], Outcome("done", value=0.5, std=0.1)
        yield subjects[1], not_applicable("the model knows nothing of this")
        raise RuntimeError("the judge\n  answered nonsense")

    with_flaky(monkeypatch, breaks)
    assert run_evaluate(*arguments, "scores=core,flaky") == 1
    found = records(run_root)
    assert [r["status"] for r in found if r["score"] == "core"] == ["done"] * 8
    flaky = [r for r in found if r["score"] == "flaky"]
    assert [r["status"] for r in flaky] == ["done", "not applicable", *["failed"] * 6]
    assert [r["value"] for r in flaky] == [0.5, *[None] * 7]
    assert {r["reason"] for r in flaky[2:]} == {"RuntimeError: the judge answered nonsense"}
    out, err = capsys.readouterr()
    assert out.count("failed: flaky") == 1
    assert "failed: flaky, 6 SAEs: RuntimeError: the judge answered nonsense" in out
    assert "Traceback" in err  # a defect is not hidden behind its one line
    page = (run_root / "stability" / "report.html").read_text()
    assert "Flaky, failed: RuntimeError: the judge answered nonsense (mirror L0 8 seed 24, " in page
    assert "Flaky, not applicable: the model knows nothing of this (mirror L0 4 seed 42)" in page
    run_evaluate(*arguments, "scores=core,flaky")
    assert attempts == [8, 6]  # what failed is tried again, what is done or not applicable is not


@pytest.mark.slow
def test_a_failed_request_leaves_what_was_measured_with_other_settings(run_root, arguments, run_evaluate, monkeypatch):
    calls = []

    def knows_level_1(bench: Any, settings: Any, subjects: list) -> Iterator:
        calls.append(settings.level)
        if settings.level != 1:
            raise UserError(f"flaky.level={settings.level}: use 1")
        yield from ((subject, Outcome("done", value=0.5)) for subject in subjects)

    with_flaky(monkeypatch, knows_level_1)
    assert run_evaluate(*arguments, "scores=flaky") == 0
    before = written(run_root)
    assert run_evaluate(*arguments, "scores=flaky", "flaky.level=2") == 1
    assert {(r["status"], r["value"]) for r in records(run_root)} == {("failed", None)}  # told wherever this call shows
    assert "flaky.level=2: use 1" in (run_root / "stability" / "report.html").read_text()
    assert written(run_root) == before
    moved = run_root / "init=mirror" / "l0=4" / "seed=24" / "config.yaml"
    moved.write_text(moved.read_text().replace("cache_fingerprint: ", "cache_fingerprint: another"))
    assert run_evaluate(*arguments, "scores=flaky") == 1
    assert [r["status"] for r in records(run_root)] == ["failed", *["done"] * 7]
    moved.write_text(moved.read_text().replace("cache_fingerprint: another", "cache_fingerprint: "))
    assert run_evaluate(*arguments, "scores=flaky") == 0
    assert {r["value"] for r in records(run_root)} == {0.5}
    assert calls == [1, 2]  # the work of the first call was not lost


def test_a_missing_key_is_one_line_and_the_other_scores_go_on(run_root, arguments, run_evaluate, monkeypatch, capsys):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    monkeypatch.setattr(environment, "versions", dict)
    autointerp = ["saebench_autointerp.key_variable=NO_SUCH_KEY", "saebench_autointerp.text=heldout"]
    assert run_evaluate(*arguments, "scores=saebench_autointerp,core", *autointerp) == 1
    found = records(run_root)
    assert [r["status"] for r in found if r["score"] == "core"] == ["done"] * 8
    judged = [r for r in found if r["score"] == "saebench_autointerp"]
    assert [(r["status"], r["value"]) for r in judged] == [("failed", None)] * 8
    reason = "key_variable=NO_SUCH_KEY: not set: export the endpoint's key under this name"
    assert {r["reason"] for r in judged} == {reason}
    out, err = capsys.readouterr()
    for text in (out, err):
        assert [line for line in text.splitlines() if line.startswith("failed")] == [
            f"failed: saebench_autointerp, 8 SAEs: {reason}"
        ]
    assert "Traceback" not in err


def test_settings_reach_the_score_and_unknown_ones_are_refused(run_root, arguments, run_evaluate, monkeypatch, capsys):
    seen = []

    def sees(bench: Any, settings: Any, subjects: list) -> Iterator:
        seen.append(settings.level)
        yield from ((subject, Outcome("done", value=1.0)) for subject in subjects)

    with_flaky(monkeypatch, sees)
    assert run_evaluate(*arguments, "scores=flaky", "flaky.level=7") == 0
    assert seen == [7]
    for word, message in (
        ("scores=core,absorbtion", "scores=absorbtion: known are core, flaky"),
        ("scores=[]", "scores=[]: name at least one of core, flaky"),
        ("core.tokns=5", "core.tokns: there is no such key"),
        ("core.tokens=many", "core.tokens=many: "),
        ("colour=red", "colour: there is no such key"),
        ("-m", "-m: write key=value"),
        ("threads=0", "threads=0: "),
        ("device=tpu", "device=tpu: known are cpu, cuda"),
        ("logger=tensorboard", "logger=tensorboard: known are"),
        (f"run_root={run_root / 'nowhere'}", f"run_root={run_root / 'nowhere'}: no such folder"),
        (f"run_root={run_root / 'quality'}", f"run_root={run_root / 'quality'}: no finished run init="),
    ):
        capsys.readouterr()
        assert run_evaluate(*arguments, word) == 2, word
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert errors[0].startswith(f"error: {message}"), errors
    assert seen == [7]


def test_strangers_fail_in_one_line_and_the_others_are_measured(learnt, run_root, arguments, run_evaluate, capsys):
    fake_run(run_root, "wide", 4, 1, start=torch.eye(12), config=learnt)
    other = add_run(run_root, learnt, exact_sae(), "moved", 4, 1)
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("cache_fingerprint: ", "cache_fingerprint: another"))
    assert run_evaluate(*arguments) == 1
    found = {record["init"]: record for record in records(run_root)}
    assert f"its SAE takes width 12, but {learnt['lm']['name']} has activations of width {D}" in found["wide"]["reason"]
    assert "are not what it was trained on any more" in found["moved"]["reason"]
    assert found["mirror"]["status"] == "done"


def test_runs_of_one_text_may_differ_in_their_activations(learnt, run_root, arguments, run_evaluate, monkeypatch):
    for name, changed in (("longer", {"tokens": 3000}), ("clipped", {"outlier_factor": 1.5})):
        other = {**learnt, "activations": {**learnt["activations"], **changed}}
        add_run(run_root, other, exact_sae(), name, 4, 1)
    factors = {}

    def sees(bench: Any, settings: Any, subjects: list) -> Iterator:
        for subject in subjects:
            factors[subject.init] = bench.activations.outlier_factor
            yield subject, Outcome("done", value=1.0)

    with_flaky(monkeypatch, sees)
    assert run_evaluate(*arguments, "scores=core,flaky") == 0
    assert {r["status"] for r in records(run_root)} == {"done"}
    assert factors == {"mirror": 10.0, "uniform": 10.0, "longer": 10.0, "clipped": 1.5}


def test_too_little_held_out_text_is_one_line(run_root, arguments, run_evaluate, capsys):
    assert run_evaluate(*arguments, "core.tokens=1_000_000") == 1
    assert "core.tokens=1000000: the held-out documents of files give" in records(run_root)[0]["reason"]
    assert "Traceback" not in capsys.readouterr().err


def test_help_lists_the_scores(run_evaluate, capsys):
    assert run_evaluate("--help") == 0
    out = capsys.readouterr().out
    assert "Loss Recovered: the runs' language model and held-out text" in out
    said = {line.split("#")[0].strip(): line.split("#")[1] for line in out.splitlines() if "#" in line}
    assert said["saemd evaluate"] == " the core measures of every finished run below runs"
    assert compose_evaluation([]).scores == ["core"]
