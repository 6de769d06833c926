"""The GPU benchmark, rehearsed on the CPU as a machine with little installed would run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ABSENT = ("hydra", "omegaconf", "datasets", "wandb", "pypi_simple", "numba", "einops")
UNUSED = ("saemd.progress", "saemd.packages", "saemd.cli")  # they need more, which Lightning uses where it is


@pytest.mark.slow
def test_it_runs_where_only_torch_and_lightning_are(tmp_path):
    script, out = ROOT / "experiments" / "throughput" / "gpu.py", tmp_path / "gpu.json"
    words = ["device=cpu", "d_in=16", "d_sae=64", "l0=4", "batch=32", "steps=2", "repetitions=2", "stack=3"]
    words.append("sides=saemd,stack,loop")
    run = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({ABSENT})); "
        f"sys.path[:0] = [{str(ROOT)!r}, {str(script.parent)!r}]; "
        f"sys.argv = ['gpu.py', *{words!r}, 'out={out}']; runpy.run_path({str(script)!r}, run_name='__main__'); "
        f"assert not set({UNUSED}) & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [len(values) for values in result["milliseconds"].values()] == [2, 2, 2]
    assert all(value > 0 for values in result["milliseconds"].values() for value in values)
    assert result["of_matrix_rate"] > 0
    assert result["peak_gigabytes"] == "not measured"
    for side in ("saemd", "stack"):
        assert abs(result["last_loss"][side] / result["last_loss"]["loop"] - 1) < 0.5  # of different steps
    assert {"encode", "activate", "∂W_enc", "gradient_norm", "adam_ W_dec"} <= result["parts"].keys()
