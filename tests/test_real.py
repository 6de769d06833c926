"""The main job on the real language model and real text, in small: what a new user's first command does."""

import json
import os
import subprocess
import sys

import pytest

from saemd import load_sae


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demo_in_small_on_smollm2(cache_root, tmp_path):
    """SmolLM2 and Wikipedia from their packages, four runs, the report; started again, it ends at once."""
    command = [
        sys.executable, "-m", "saemd.train", "-m", "experiment=demo", "init=mirror,uniform", "seed=24,42", "l0=320",
        "activations.tokens=30_000", "activations.heldout_tokens=4_000", "tokens=131_072", "threads=1",
        f"cache_root={cache_root}", f"run_root={tmp_path / 'runs'}", "logger=csv",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    metrics = {
        (path.parts[-4], path.parts[-2]): json.loads(path.read_text())
        for path in tmp_path.glob("runs/init=*/l0=320/seed=*/metrics.json")
    }
    assert len(metrics) == 4
    for found in metrics.values():
        assert found["steps"] == 64
        assert found["held_out_tokens"] >= 4_000
        assert found["fvu"] < 0.5  # 1: no better than the mean
        assert found["l0"] < 1000  # a start has about 1,500
    records = json.loads((tmp_path / "runs" / "stability" / "stability.json").read_text())
    by_init = {record["init"]: record for record in records}
    assert by_init["mirror"]["same_start_dec"]
    assert by_init["mirror"]["same_match"] > 0.95
    assert not by_init["uniform"]["same_start_dec"]
    assert by_init["uniform"]["shared"] < 0.1
    assert (tmp_path / "runs" / "stability" / "report.html").stat().st_size > 10_000
    assert load_sae(tmp_path / "runs" / "init=mirror" / "l0=320" / "seed=24").W_dec.shape == (3072, 576)

    offline = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:1"}
    again = subprocess.run(command, capture_output=True, text=True, env=offline)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("finished before") == 4  # nothing is trained again
