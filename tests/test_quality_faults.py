"""What goes wrong around an evaluation: SAEs and language models that are broken or gone, two evaluations at once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from saemd import evaluate
from tests.test_quality_evaluate import arguments, made, records, run_root  # noqa: F401 - fixtures
from tests.test_sweep import command  # noqa: F401 - a fixture

FIRST = Path("init=mirror", "l0=4", "seed=24")


def test_an_sae_that_is_not_finite_fails_and_the_others_are_shown(run_root, arguments, command, capsys):  # noqa: F811
    weights = load_file(run_root / FIRST / "sae_weights.safetensors")
    save_file({**weights, "W_dec": weights["W_dec"] * math.nan}, run_root / FIRST / "sae_weights.safetensors")
    assert command(*arguments, main=evaluate.main) == 1
    broken, *others = records(run_root)
    assert (broken["status"], broken["value"]) == ("failed", None)
    assert broken["reason"] == "value=nan: the SAE's reconstruction is not finite; train this run again"
    assert {record["status"] for record in others} == {"done"}
    assert "Traceback" not in capsys.readouterr().err


def test_a_value_that_was_written_as_null_is_measured_again(run_root, arguments, command):  # noqa: F811
    assert command(*arguments, main=evaluate.main) == 0
    path = run_root / FIRST / "quality" / "core.json"
    before: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({**before, "value": None}))
    assert command(*arguments, main=evaluate.main) == 0
    assert json.loads(path.read_text())["value"] == before["value"]
