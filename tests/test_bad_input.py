"""Every bad input: one line with key, value and remedy, exit code 2, nothing half-written."""

import re
from pathlib import Path

import pytest

from saemd import cache as cache_entry
from saemd import cli, evaluate, train
from tests.pipeline import documents
from tests.test_sweep import command, world  # noqa: F401 - fixtures

CASES = {
    "unknown key": (["colour=red"], r"colour: there is no such key"),
    "unknown nested key": (["recipe.lrr=1"], r"recipe.lrr: there is no such key"),
    "key of another initialisation": (["init=uniform", "init.fold_postnorm=true"], r"init.fold_postnorm: there is no"),
    "unknown group value": (["init=zero"], r"init=zero: known are mirror, uniform"),
    "wrong type": (["l0=many"], r"l0=many: "),
    "layer outside the model": (["layer=3"], r"layer=3: .* layers 0 to 2"),
    "negative layer": (["layer=-1"], r"layer=-1: layers count from 0"),
    "l0 zero": (["l0=0"], r"l0=0: the target L0 must be at least 1"),
    "l0 above d_sae": (["l0=49"], r"l0=49: the target L0 cannot exceed d_sae=48"),
    "d_sae that mirror cannot have": (["init=mirror", "d_sae=50"], r"d_sae=50: .*2m=48"),
    "tokens fewer than a batch": (["tokens=63"], r"tokens=63: use at least one batch, batch_size=64"),
    "batch larger than the cache": (["batch_size=7000", "tokens=7000"], r"batch_size=7000: "),
    "encoder": (["init.encoder=none"], r"init.encoder=none: known are tied, gain, dual"),
    "fold without a post-norm": (["init=mirror", "init.fold_postnorm=true"], r"init.fold_postnorm=True: "),
    "seeds that repeat": (["-m", "seed=1,1"], r"seed=1: two jobs of this sweep would share"),
    "values without -m": (["seed=1,2"], r"seed=1,2: several values are a sweep; add -m"),
    "unquoted": (["cache_root=a=b"], r"cache_root=a=b: .* in quotes, \"cache_root='a=b'\""),
    "missing model": (["lm.name=./nowhere"], r"lm.name=./nowhere: "),
    "no name": (["lm.name=???"], r"lm.name: has no value"),
    "unreadable corpus": (["corpus.path=./nowhere"], r"corpus.path=nowhere: "),
    "text field": (["corpus.text_field=body"], r"corpus.text_field=body: "),
    "schedule longer than the run": (["recipe.lr_warmup_fraction=1"], r"recipe.lr_warmup_steps=1000: "),
    "mode of a logger": (["logger.mode=sometimes"], r"logger.mode=sometimes: choose one of auto, online, offline"),
    "accelerator": (["accelerator=tpu"], r"accelerator=tpu: known are auto, cpu, gpu, cuda"),
    "width of a later job": (["-m", "init=uniform,mirror", "d_sae=50"], r"d_sae=50: .*2m=48"),
    "logger": (["logger=tensorboard"], r"logger=tensorboard: known are csv, none, wandb"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_written(case, world, command, tmp_path, capsys):  # noqa: F811
    arguments, pattern = CASES[case]
    code = command(*world, *arguments, f"run_root={tmp_path / 'runs'}")
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert "Error executing job" not in said
    assert "failed" not in said
    assert len(lines) == 1
    assert re.match(f"error: {pattern}", lines[0]), lines[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_refused_before_the_cache_is_written(world, command, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for bad in ("recipe=reference", "accelerator=gpu", "init.encoder=none", "run_root=/proc/nowhere"):
        assert command(*world, f"run_root={tmp_path / 'runs'}", f"cache_root={tmp_path / 'cache'}", bad) == 2
        assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]) == 1
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_too_little_disk(world, command, tmp_path, capsys):  # noqa: F811
    code = command(*world, "activations.tokens=1000000000000", f"cache_root={tmp_path}", main=cache_entry.main)
    assert code == 2
    assert re.search(r"error: activations.tokens=1000000000000: the cache needs .* free", capsys.readouterr().err)
    assert not list(tmp_path.rglob("*.bin"))


def test_empty_text(world, command, tmp_path, capsys):  # noqa: F811
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(documents(1)[0])
    arguments = [f"corpus.path={tmp_path / 'text'}", f"cache_root={tmp_path}"]
    assert command(*world, *arguments, main=cache_entry.main) == 2
    assert "error: corpus=files: " in capsys.readouterr().err


def test_every_entry_has_help(command, capsys):  # noqa: F811
    for main in (train.main, cache_entry.main, evaluate.main):
        assert command("--help", main=main) == 0
        assert "python -m saemd." in capsys.readouterr().out


def test_the_composed_configuration_is_shown(world, command, tmp_path, capsys):  # noqa: F811
    assert command(*world, "experiment=paper", f"run_root={tmp_path / 'runs'}", "--cfg", "job") == 0
    assert "d_sae: 18432" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_errors_of_hydra_and_of_ours_take_one_way():
    assert cli.one_line(ValueError("a\n  b")) == "a b"
    assert Path(cli.CONF).is_dir()
