"""What goes wrong around an evaluation: SAEs and language models that are broken or gone, two evaluations at once."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from saemd.checksums import without_checksum
from saemd.quality.config import compose_evaluation
from saemd.quality.evaluation import evaluate_root
from saemd.quality.score import Outcome
from tests.quality.sweeps import records, with_flaky

FIRST = Path("init=mirror", "l0=4", "seed=24")
pytestmark = pytest.mark.slow  # each evaluates a sweep two or three times


def test_an_sae_that_is_not_finite_fails_and_the_others_are_shown(run_root, arguments, run_evaluate, capsys):
    weights = load_file(run_root / FIRST / "sae_weights.safetensors")
    save_file({**weights, "W_dec": weights["W_dec"] * math.nan}, run_root / FIRST / "sae_weights.safetensors")
    assert run_evaluate(*arguments) == 1
    broken, *others = records(run_root)
    assert (broken["status"], broken["value"]) == ("failed", None)
    why = "W_dec is NaN or infinite in places; remove this folder and train it again, with a lower recipe.lr"
    assert broken["reason"] == f"{run_root / FIRST}: {why}"
    assert {record["status"] for record in others} == {"done"}
    assert "Traceback" not in capsys.readouterr().err


CONTENTS = ("", "null", "[]", "{", "{}", '{"status": "done", "weights": 3}')


def test_a_damaged_record_is_measured_again(run_root, arguments, run_evaluate, capsys):
    """Each kind of damage in the record of a run of its own, and null for the value of one record more."""
    assert run_evaluate(*arguments) == 0
    *paths, null, whole = sorted(run_root.rglob("core.json"))
    before: dict[Path, dict[str, Any]] = {path: json.loads(path.read_text()) for path in (*paths, null, whole)}
    for path, content in zip(paths, CONTENTS, strict=True):
        path.write_text(content)
    null.write_text(json.dumps({**without_checksum(before[null]), "value": None}))
    written = whole.stat().st_mtime_ns
    capsys.readouterr()
    assert run_evaluate(*arguments) == 0
    said = capsys.readouterr().err.splitlines()
    for path in paths:
        of_path = [line for line in said if line.startswith(f"{path}: ")]
        assert of_path, path
        assert all(line.endswith("so this score is measured again") for line in of_path)
    for path, record in before.items():
        assert json.loads(path.read_text())["value"] == record["value"]
    assert whole.stat().st_mtime_ns == written


def test_a_damaged_run_is_left_out_by_name(run_root, arguments, run_evaluate, capsys):
    runs = [path.parent for path in sorted(run_root.rglob("config.yaml"))[:4]]
    saved = yaml.safe_load((runs[0] / "config.yaml").read_text())
    other_shape = yaml.safe_dump({**saved, "config": {**saved["config"], "layer": "first", "corpus": None}})
    for run, content in zip(runs, ("config: {}", "config: {lm: [1]}", "", other_shape), strict=True):
        (run / "config.yaml").write_text(content)
    assert run_evaluate(*arguments) == 1
    out, err = capsys.readouterr()
    for run in runs:
        assert len([line for line in out.splitlines() if line.startswith(f"left out: run_dir={run}: ")]) == 1
    assert "Traceback" not in err
    assert [record["status"] for record in records(run_root)] == ["done"] * 4


def test_a_run_whose_language_model_is_gone_is_left_out_by_name(run_root, arguments, run_evaluate, capsys):
    def move_away(run: Path) -> None:
        saved = yaml.safe_load((run / "config.yaml").read_text())
        saved["config"]["lm"]["name"] = "/gone"
        (run / "config.yaml").write_text(yaml.safe_dump(saved))

    move_away(run_root / FIRST)
    assert run_evaluate(*arguments) == 1
    assert [(record["status"], record["init"]) for record in records(run_root)] == [
        *[("done", "mirror")] * 3, *[("done", "uniform")] * 4
    ]  # fmt: skip
    gone = f"run_dir={run_root / FIRST}: cannot be measured (lm.name=/gone: this folder has no config.json; "
    assert f"left out: {gone}" in capsys.readouterr().out
    for run in run_root.glob("init=*/l0=*/seed=*"):
        move_away(run)
    assert run_evaluate(*arguments) == 2  # nothing is left to be measured
    assert f"error: {gone}" in capsys.readouterr().err


def test_a_second_evaluation_waits_and_measures_nothing_twice(run_root, arguments, monkeypatch, capsys):
    calls, begun, go_on = [], threading.Event(), threading.Event()

    def slow(bench: Any, settings: Any, subjects: list) -> Iterator:
        calls.append(len(subjects))
        begun.set()
        assert go_on.wait(30)
        yield from ((subject, Outcome("done", value=0.5)) for subject in subjects)

    with_flaky(monkeypatch, slow)
    config = compose_evaluation([*arguments, "scores=flaky"])
    found = []
    both = [threading.Thread(target=lambda: found.append(evaluate_root(config))) for _ in range(2)]
    both[0].start()
    assert begun.wait(30)
    both[1].start()
    said, until = "", time.monotonic() + 30
    while "waiting" not in said and time.monotonic() < until:
        time.sleep(0.05)
        said += capsys.readouterr().err
    go_on.set()
    for thread in both:
        thread.join()
    assert said == "flaky: waiting for another evaluation that measures it on the same text\n"
    assert calls == [8]
    assert [[record["value"] for record in one.records] for one in found] == [[0.5] * 8] * 2


def test_a_damaged_file_that_is_kept_is_named(cache, run_root, arguments, run_evaluate, capsys):
    """What the language model gave for all SAEs, cut short later: one line, and once removed it is made again."""
    assert run_evaluate(*arguments) == 0
    kept = next(cache.rglob("clean-*.safetensors"))
    kept.write_bytes(kept.read_bytes()[:-8])
    for record in run_root.rglob("core.json"):
        record.unlink()
    capsys.readouterr()
    assert run_evaluate(*arguments) == 1
    said = capsys.readouterr().err
    assert f"{kept}: cannot be read (" in said
    assert "remove it, and the same command makes it again" in said
    assert "Traceback" not in said
    kept.unlink()
    assert run_evaluate(*arguments) == 0
