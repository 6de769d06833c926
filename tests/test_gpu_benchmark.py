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
    words.append("sides=saemd,resident,stack,eager,loop")
    run = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({ABSENT})); "
        f"sys.path[:0] = [{str(ROOT)!r}, {str(script.parent)!r}]; "
        f"sys.argv = ['gpu.py', *{words!r}, 'out={out}']; runpy.run_path({str(script)!r}, run_name='__main__'); "
        f"assert not set({UNUSED}) & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [len(values) for values in result["milliseconds"].values()] == [2] * 5
    assert all(value > 0 for values in result["milliseconds"].values() for value in values)
    assert all(share > 0 for share in result["of_matrix_rate"].values())
    assert result["peak_gigabytes"] == "not measured"
    for side in ("saemd", "resident", "stack", "eager"):
        assert abs(result["last_loss"][side] / result["last_loss"]["loop"] - 1) < 0.5  # of different steps
    assert {"encode", "activate", "∂W_enc", "gradient_norm", "adam_ W_dec"} <= result["parts"].keys()


@pytest.mark.slow
def test_all_that_a_gpu_is_asked_for_runs(tmp_path):
    script = ROOT / "experiments" / "throughput" / "gpu_all.py"
    words = ["device=cpu", f"out={tmp_path}", "stages=sweep,stack32,profile"]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "runs").rglob("metrics.json"))) == 4
    assert (tmp_path / "runs" / "stability" / "report.html").is_file()
    assert "aten::bmm" in (tmp_path / "profile.txt").read_text()
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["sweep", "stack32", "profile"]
