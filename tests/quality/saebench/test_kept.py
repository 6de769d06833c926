"""SAEBench's side of what goes wrong or changes: data that are others now, workers that are killed, a second one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saemd.errors import UserError
from saemd.lm.config import LMConfig
from saemd.quality.saebench import environment, jobs
from saemd.quality.saebench.caller import run_worker
from saemd.quality.saebench.evaluations.core import CORE, CoreSettings
from saemd.quality.saebench.evaluations.ravel import RavelSettings
from saemd.quality.saebench.evaluations.scr_and_tpp import TppSettings
from saemd.quality.saebench.evaluations.unlearning import UnlearningSettings
from saemd.quality.score import fingerprint
from saemd.quality.scores import SCORES
from tests.quality.saebench.scripted import scripted, worker_job


def identified(name: str, chosen: Any) -> str:
    return fingerprint(SCORES[name], chosen, "bench", "weights")


def test_a_finished_record_without_folders_of_the_users_keeps_its_fingerprint():
    """As they were before a folder's files took part: another one would have finished scores measured again."""
    assert identified("core", SCORES["core"].settings()) == "b91a53135afcca35"
    assert identified("saebench_core", CoreSettings(text="heldout")) == "66348b6fcbee2676"
    assert identified("saebench_tpp", TppSettings(data="packaged")) == "34074037df1cb4f0"
    assert identified("saebench_ravel", RavelSettings()) == "94d72910feee7201"


@pytest.mark.parametrize("key", ["data", "text"])
def test_changed_files_in_a_folder_of_the_users_are_another_measurement(tmp_path, monkeypatch, key):
    file = tmp_path / "given" / "train.jsonl"
    file.parent.mkdir()
    file.write_text("one")
    chosen = replace(CoreSettings(), **{key: str(file.parent)})
    monkeypatch.setattr(jobs, "resolve", lambda *_: Path("model"))
    monkeypatch.setattr(jobs, "with_safetensors", lambda *_: Path("model"))
    bench: Any = SimpleNamespace(
        folder=lambda name: tmp_path / name, cache_root=tmp_path, lm_config=LMConfig("lm"), layer=1, device="cpu"
    )

    def both(chosen: CoreSettings = chosen) -> tuple[str, str]:
        return identified("saebench_core", chosen), Path(jobs.build_job(CORE, bench, chosen, {})["work"]).name

    before = both()
    assert both() == before
    file.write_text("other")
    assert all(now != then for now, then in zip(both(), before, strict=True))
    assert both(CoreSettings())[1] == "core-621f6172c83b"  # what was kept for texts of the hub is found again


def test_another_model_in_the_folder_asked_by_unlearning_is_another_measurement(tmp_path):
    weights = tmp_path / "gemma-2-2b-it" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_text("one")
    chosen = replace(UnlearningSettings(), lm=str(weights.parent))
    before = identified("saebench_unlearning", chosen)
    weights.write_text("other")
    assert identified("saebench_unlearning", chosen) != before


def test_what_a_killed_worker_kept_is_removed_and_what_a_whole_one_kept_is_not(tmp_path, monkeypatch):
    kept = tmp_path / "seed=42" / "artifacts" / "probe.pth"
    keep = f"mkdir -p {kept.parent}; touch {kept}"
    scripted(monkeypatch, tmp_path, f"{keep}; test ! -f {tmp_path}/kill || kill -9 $$")
    list(run_worker(worker_job(tmp_path)))
    assert kept.exists()
    (tmp_path / "kill").touch()
    with pytest.raises(UserError, match="signal 9"):
        list(run_worker(worker_job(tmp_path)))
    assert not kept.exists()


def test_a_worker_that_ends_without_saying_why_is_one_line(tmp_path, monkeypatch):
    scripted(monkeypatch, tmp_path, "exit 1")
    with pytest.raises(UserError, match=r"^SAEBench ended with code 1; see .*log.txt$"):
        list(run_worker(worker_job(tmp_path)))


def test_what_was_kept_when_the_caller_was_killed_too_is_removed_before_the_next_worker(tmp_path, monkeypatch):
    kept = tmp_path / "seed=42" / "artifacts" / "probe.pth"
    scripted(monkeypatch, tmp_path, f"mkdir -p {kept.parent}; touch {kept}; kill -9 $PPID")
    command = [sys.executable, "-c", CALL, json.dumps(worker_job(tmp_path))]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(environment.REPOSITORY)}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert kept.exists()
    scripted(monkeypatch, tmp_path, f"test ! -e {kept} || exit 3")
    list(run_worker(worker_job(tmp_path)))


CALL = """
import json, sys
from saemd.quality.saebench.caller import run_worker
from saemd.quality.saebench.evaluations.core import CORE, CoreSettings
from saemd.quality.saebench.evaluations.ravel import RavelSettings
from saemd.quality.saebench.evaluations.scr_and_tpp import TppSettings
from saemd.quality.saebench.evaluations.unlearning import UnlearningSettings
list(run_worker(json.loads(sys.argv[1])))
"""
