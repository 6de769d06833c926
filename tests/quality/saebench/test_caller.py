"""The caller of SAEBench with a scripted worker: its events, its end, and what is kept after it."""

from __future__ import annotations

import json

import pytest

from saemd.errors import UserError
from saemd.quality.saebench import environment
from saemd.quality.saebench.caller import run_worker
from saemd.quality.saebench.evaluations import EVALUATIONS
from tests.quality.saebench.scripted import measure, scripted, worker_job

RESULT = {"eval_result_metrics": {"unlearning": {"unlearning_score": 0.1}}}


def test_a_missing_environment_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UserError, match="run `make saebench`"):
        environment.versions()


def test_another_sae_bench_is_refused(tmp_path, monkeypatch):
    scripted(monkeypatch, tmp_path, "", sae_bench="0.4.1")
    with pytest.raises(UserError, match=r"sae-bench=0\.4\.1: 0\.6\.0 is wanted"):
        environment.versions()


def test_one_sae_that_fails_does_not_take_the_others(tmp_path, monkeypatch):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
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
        list(run_worker(worker_job(tmp_path)))


def test_large_caches_go_with_the_job(tmp_path, monkeypatch):
    scripted(monkeypatch, tmp_path, f"mkdir -p {tmp_path}/seed=42/artifacts/large")
    list(run_worker(worker_job(tmp_path, evaluation="absorption")))
    assert (tmp_path / "seed=42" / "artifacts").is_dir()
    list(run_worker(worker_job(tmp_path, evaluation="scr")))
    assert EVALUATIONS["scr"].large_cache
    assert not (tmp_path / "seed=42" / "artifacts").exists()
