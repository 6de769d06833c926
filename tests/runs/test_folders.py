"""A run's folder: written from a configuration, read back, found again, and another one for every job of a sweep."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from saemd import export
from saemd.composition import compose_all, job_overrides
from saemd.errors import UserError
from saemd.runs import find, is_among_runs, run_dir, run_name
from saemd.runs.folders import check_name, part, place_of
from tests.runs.short_run import PLACE, SHORT
from tests.stability_fakes import fake_run


def folders(*arguments: str) -> list[str]:
    return [str(run_dir(config)) for config in compose_all([*arguments, "logger=none"])]


def test_a_plain_run_has_three_parts():
    assert folders("l0=20") == ["runs/init=mirror/l0=20/seed=24"]
    assert folders("-m", "init=mirror,uniform", "l0=20", "seed=1,2") == [
        f"runs/init={init}/l0=20/seed={seed}" for init in ("mirror", "uniform") for seed in (1, 2)
    ]


@pytest.mark.parametrize(
    ("sweep", "parts"),
    [
        (["layer=6,12"], ["layer=6", "layer=12"]),
        (["recipe.lr=1e-4,3e-4"], ["recipe.lr=0.0001", "recipe.lr=0.0003"]),
        (["recipe=default,reference"], ["recipe=default", "recipe=reference"]),
        (["init.encoder=tied,dual"], ["init.encoder=tied", "init.encoder=dual"]),
        (["d_sae=null,4608"], ["d_sae=null", "d_sae=4608"]),
        (["init_seed=1,2"], ["init_seed=1", "init_seed=2"]),
        (["lm=hf", "lm.name=google/gemma-2-2b,gpt2"], ["lm.name=google-gemma-2-2b", "lm.name=gpt2"]),
        (["layer=range(6,8)", "d_sae=48"], ["layer=6", "layer=7"]),
        (["tokens=8192,16384", "layer=6,7"], [f"layer={i}/tokens={t}" for t in (8192, 16384) for i in (6, 7)]),
        (["layer=6,7", "folder.note=second"], ["layer=6/note=second", "layer=7/note=second"]),
        (["layer=6,6"], ["layer=6", "layer=6"]),  # refused by the preflight: each value once
    ],
)
def test_every_other_key_that_a_sweep_varies_is_a_part(sweep, parts):
    assert folders("-m", *sweep) == [f"runs/init=mirror/l0=40/{between}/seed=24" for between in parts]


def test_a_single_run_can_be_put_into_the_folder_of_a_sweep():
    expected = ["runs/init=mirror/l0=40/layer=6/seed=24"]
    assert folders("folder={layer:null}", "layer=6") == folders("folder.layer=null", "layer=6") == expected
    assert folders("folder.recipe.lr=null") == ["runs/init=mirror/l0=40/recipe.lr=0.0003/seed=24"]
    assert folders("folder.recipe=null") == ["runs/init=mirror/l0=40/recipe=default/seed=24"]


def test_hydra_shows_a_configuration_with_a_further_part(command, capsys):
    assert command("--cfg", "job", "folder.note=second", "logger=none") == 0
    assert "note: second" in capsys.readouterr().out


def test_keys_that_leave_the_weights_alone_are_no_part():
    for sweep in ("threads=1,2", "run_root=a,b", "activations.prefetch_batches=1,2", "logger.mode=offline,online"):
        assert not [word for word in job_overrides(["-m", sweep]) if word.startswith("++folder")], sweep


@pytest.mark.parametrize("value", ["", " a", "a\n", "x" * 81])
def test_values_that_cannot_name_a_folder_are_refused(value):
    with pytest.raises(UserError, match=r"^folder\.note='.*: it names the run's folder: use 1 to 80 bytes"):
        part("note", value)


def test_a_name_that_wandb_would_cut_is_refused():
    (config,) = compose_all(["folder.a=" + "x" * 60, "folder.b=" + "y" * 60, "logger=none"])
    with pytest.raises(UserError, match=r"^folder=a=x+ b=y+: the run's name has 151 bytes with it, and 128 at most"):
        check_name(config)


def test_a_folder_is_read_back(tmp_path):
    (config,) = compose_all(["-m", "lm=hf", "lm.name=a=b/c", "layer=6", "folder={lm.name:null,layer:null}"])
    config.run_root = str(tmp_path)
    place = place_of(run_dir(config))
    assert place
    assert (place.run_root, place.init, place.l0, place.seed) == (tmp_path.resolve(), "mirror", 40, 24)
    assert place.parts == {"layer": "6", "lm.name": "a=b-c"}
    assert run_name(config) == "init=mirror l0=40 layer=6 lm.name=a=b-c seed=24"
    assert place_of(tmp_path / "init=mirror" / "l0=40" / "other" / "seed=24") is None


def test_finished_runs_are_found_at_every_depth_and_no_other_folder(tmp_path):
    runs = [fake_run(tmp_path), fake_run(tmp_path, parts={"layer": "6"}), fake_run(tmp_path, parts={"a": "1", "b": ""})]
    (fake_run(tmp_path, seed=7) / "metrics.json").unlink()
    (runs[0] / "wandb" / "seed=1").mkdir(parents=True)
    (runs[0] / "wandb" / "seed=1" / "metrics.json").touch()
    assert find(tmp_path) == sorted(runs)
    assert is_among_runs(tmp_path / "init=uniform" / "out", runs[2])
    assert not is_among_runs(tmp_path / "out", runs[2])
    assert export.runs_to_export({"run_root": str(tmp_path)}) == {
        run: run.relative_to(tmp_path) for run in sorted(runs)
    }


def test_a_sweep_over_another_key_trains_and_repeats_nothing(world, command, tmp_path, capsys):
    sweep = ["-m", *world, "tokens=1024", "init=uniform", "seed=0", "recipe.lr=1e-4,3e-4", f"run_root={tmp_path}"]
    assert command(*sweep) == 0
    for lr in ("0.0001", "0.0003"):
        run = Path("init=uniform", "l0=4", f"recipe.lr={lr}", "seed=0")
        config = yaml.safe_load((tmp_path / run / "config.yaml").read_text())["config"]
        assert (config["folder"], config["recipe"]["lr"]) == ({"recipe.lr": lr}, float(lr))
    capsys.readouterr()
    assert command(*sweep) == 0
    assert capsys.readouterr().err.count("finished before") == 2


@pytest.mark.slow
def test_jobs_in_other_processes_find_their_folders(world, command, tmp_path):
    sweep = ["-m", *world, "tokens=1024", "init=mirror", "seed=0", "init.encoder=tied,dual", "recipe=default"]
    assert command(*sweep, f"run_root={tmp_path}", "hydra/launcher=joblib") == 0
    assert [run.relative_to(tmp_path) for run in find(tmp_path)] == [
        Path("init=mirror", "l0=4", f"init.encoder={encoder}", "seed=0") for encoder in ("dual", "tied")
    ]


def test_a_run_of_an_earlier_version_is_refused_in_a_short_line(world, command, whole, tmp_path, capsys):
    """Its configuration has no `sae`: every key that moved would be listed."""
    run = tmp_path / PLACE
    shutil.copytree(whole, run)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    del saved["config"]["sae"], saved["checksum"]
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    assert command(*world, *SHORT, f"run_root={tmp_path}") == 2
    assert f"{run} holds a run of an earlier version, which" in capsys.readouterr().err
