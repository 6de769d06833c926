"""The Python functions do what the commands do: the same checks, the same runs, the same messages."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import saemd
from saemd.checksums import without_checksum
from saemd.stability import compare_root
from tests.pipeline import same

MODULE = "try:\n    import saemd.train\nexcept ImportError as error:\n    print(error)"
ORDERS = {"the function first": f"from saemd import train\n{MODULE}", "the module first": MODULE}


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | variables
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)


@pytest.fixture(scope="module")
def overrides(world) -> list[str]:
    return [*world, "init=uniform", "tokens=4096"]


@pytest.fixture(scope="module")
def runs(overrides, tmp_path_factory) -> list[saemd.Run]:
    """Two seeds."""
    root = tmp_path_factory.mktemp("runs")
    return [saemd.train(config) for config in saemd.compose_sweep(*overrides, "seed=0,1", f"run_root={root}")]


def test_a_run_is_that_of_the_command(overrides, runs, command, tmp_path):
    assert command(*overrides, "seed=1", f"run_root={tmp_path}") == 0
    run = runs[1]
    assert run.path == run.run_root / "init=uniform" / "l0=4" / "seed=1"
    assert same(run.path, tmp_path / run.path.relative_to(run.run_root))
    assert (run.seed, run.metrics["steps"]) == (1, 64)
    assert run.metrics == without_checksum(json.loads((run.path / "metrics.json").read_text()))


def test_a_finished_run_is_only_read(overrides, runs):
    written = (runs[0].path / "metrics.json").stat().st_mtime_ns
    again = saemd.train(saemd.compose(*overrides, "seed=0", f"run_root={runs[0].run_root}"))
    assert again.metrics == runs[0].metrics
    assert (runs[0].path / "metrics.json").stat().st_mtime_ns == written


def test_two_seeds_are_compared(runs):
    a, b = runs
    by_run, by_path = saemd.compare(a, b), saemd.compare(a.path, str(b.path))
    by_sae = saemd.compare(saemd.load_sae(a.path), saemd.load_sae(b.path))
    for comparison in (by_path, by_sae):
        assert isinstance(comparison, saemd.Comparison)
        assert np.array_equal(comparison.dec.cosine, by_run.dec.cosine)
        assert np.array_equal(comparison.enc.index, by_run.enc.index)
    (record,) = compare_root(a.run_root)
    assert by_run.summary()["mean_cos_dec"] == pytest.approx(record["mean_cos_dec"], rel=1e-6)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["l0=0"], "l0=0: the target L0 must be at least 1"),
        (["colour=red"], "colour: there is no such key"),
        (["init=zero"], "init=zero: known are data_points, "),
        (["l0=many"], "l0=many: Value 'many' "),
        (["seed=1,2"], "seed=1,2: several values are a sweep; add -m"),
        (["run_root=[a"], "run_root=[a: cannot be read"),
    ],
)
def test_a_bad_word_has_the_commands_message(words, line, command, capsys):
    with pytest.raises(saemd.UserError) as raised:
        saemd.compose(*words)
    assert str(raised.value).startswith(line)
    assert command(*words) == 2
    assert capsys.readouterr().err == f"error: {raised.value}\n"


def test_a_sweep_is_composed_by_its_own_function():
    with pytest.raises(saemd.UserError, match=r"^-m: .* saemd.compose_sweep"):
        saemd.compose("-m", "seed=1,2")
    configs = saemd.compose_sweep("init=mirror,uniform", "seed=24,42", "layer=6")
    assert [(config.init.name, config.seed, config.data_seed) for config in configs] == [
        ("mirror", 24, 24), ("mirror", 42, 42), ("uniform", 24, 24), ("uniform", 42, 42),
    ]  # fmt: skip
    assert [config.folder for config in saemd.compose_sweep("layer=6,12")] == [{"layer": "6"}, {"layer": "12"}]


@pytest.mark.parametrize(
    ("change", "line"), [({"layer": 3}, "layer=3: .* layers 0 to 2"), ({"l0": -1}, "l0=-1: the target L0")]
)
def test_a_configuration_changed_by_hand_is_checked_before_anything_is_written(change, line, overrides, tmp_path):
    config = saemd.compose(*overrides, f"run_root={tmp_path / 'runs'}")
    with pytest.raises(saemd.UserError, match=line):
        saemd.train(replace(config, **change))
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("words", "size"), [([], 2048), (["recipe=stable"], 512), (["recipe=stable", "batch_size=64"], 64)]
)
def test_a_recipe_may_have_a_batch_size_of_its_own(words, size):
    assert saemd.compose(*words).batch_size == size


@pytest.mark.parametrize("order", ORDERS)
def test_the_function_stays_whatever_is_imported_first(order):
    """Importing `saemd/train.py` would put a module in the function's place, so it refuses to be imported."""
    code = f"{ORDERS[order]}\nimport saemd\nprint(saemd.train.__module__, callable(saemd.train))"
    said = python(code, OMP_DISPLAY_ENV="verbose")
    refusal = "saemd.train is a function and a command, not a module; the command's code is saemd.jobs"
    assert said.stdout.splitlines() == [refusal, "saemd.api True"]
    # libgomp prints what it read of its environment as it was loaded, with torch.
    assert "GOMP_SPINCOUNT = '40000'" in said.stderr


def test_the_import_is_quick_and_without_torch():
    code = (
        "import sys, time; t = time.process_time(); import saemd; t = time.process_time() - t; print(t, *sys.modules)"
    )
    seconds, *modules = python(code).stdout.split()
    assert float(seconds) < 0.3
    assert not {"torch", "hydra", "numpy"} & {*modules}


def test_all_public_names_are_there():
    assert {*saemd.__all__} <= {*dir(saemd)}
    assert all(getattr(saemd, name) is not None for name in saemd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        saemd.trian  # noqa: B018
