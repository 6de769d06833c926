"""Every bad input: one line with key, value and remedy, exit code 2, nothing half-written."""

import errno
import re
import subprocess
import sys

import pytest

from saemd import cache as cache_entry
from saemd import cli, evaluate, jobs
from tests.pipeline import documents

CASES = {
    "unknown key": (["colour=red"], r"colour: there is no such key"),
    "unknown nested key": (["recipe.lrr=1"], r"recipe.lrr: there is no such key"),
    "key of another initialisation": (["init=uniform", "init.fold_postnorm=true"], r"init.fold_postnorm: there is no"),
    "unknown group value": (["init=zero"], r"init=zero: known are data_points, "),
    "no group value": (["experiment=null"], r"experiment=null: known are demo, paper; or leave it out$"),
    "wrong type": (["l0=many"], r"l0=many: "),
    "layer outside the model": (["layer=3"], r"layer=3: .* layers 0 to 2"),
    "negative layer": (["layer=-1"], r"layer=-1: layers count from 0"),
    "l0 zero": (["l0=0"], r"l0=0: the target L0 must be at least 1"),
    "l0 above d_sae": (["l0=49"], r"l0=49: the target L0 cannot exceed d_sae=48"),
    "first target above d_sae": (["l0=20", "recipe.l0_start=3"], r"recipe.l0_start=3.0: the first step's target, 60,"),
    "d_sae that mirror cannot have": (["init=mirror", "d_sae=50"], r"d_sae=50: .*2m=48"),
    "tokens fewer than a batch": (["tokens=63"], r"tokens=63: use at least one batch, batch_size=64"),
    "batch larger than the cache": (["batch_size=7000", "tokens=7000"], r"batch_size=7000: "),
    "encoder": (["init.encoder=none"], r"init.encoder=none: known are tied, gain, dual"),
    "fold without a post-norm": (["init=mirror", "init.fold_postnorm=true"], r"init.fold_postnorm=True: "),
    "seeds that repeat": (["-m", "seed=1,1"], r"seed=1: two jobs of this sweep would share"),
    "values without -m": (["seed=1,2"], r"seed=1,2: several values are a sweep; add -m"),
    "unquoted": (["run_root=[a"], r"run_root=\[a: .* in quotes, \"run_root='\[a'\""),
    "a blank line": (["\n"], r": write key=value$"),
    "no key": (["foo"], r"foo: write key=value"),
    "a flag for a key": (["--seed=3"], r"--seed=3: write seed=3; the flags are "),
    "a flag and its value": (["--seed", "3"], r"--seed: write seed=…; "),
    "an unknown flag": (["-x"], r"-x: write key=value; the flags are "),
    "added key": (["+colour=red"], r"colour: there is no such key"),
    "added by force": (["++recipe.lrr=1"], r"recipe.lrr: there is no such key here; did you mean recipe.lr\?"),
    "added to a group": (["+lm.foo=2"], r"lm.foo: there is no such key"),
    "added to Hydra": (["+hydra.foo=2"], r"hydra.foo: there is no such key"),
    "added in an entry of a dictionary": (
        ["corpus=wiki", "corpus.path=null", "+corpus.sources.wiki.colour=red"], r"corpus.sources.wiki.colour: there is"
    ),
    "taken out": (["~l0"], r"l0: taken out with ~"),
    "Hydra's way to ask for a sweep": (["hydra.mode=MULTIRUN"], r"hydra.mode=MULTIRUN: leave it out; -m"),
    "an unknown launcher": (["-m", "hydra/launcher=pbs"], r"hydra/launcher=pbs: known are .*basic"),
    "negative seed": (["seed=-1"], r"seed=-1: use a seed from 0 to 4294967295"),
    "seed of more than 32 bits": (["seed=4294967296"], r"seed=4294967296: use a seed from 0 to 4294967295"),
    "seed of more than 64 bits": (["seed=18446744073709551616"], r"seed=18446744073709551616: use a seed"),
    "seed of the data": (["data_seed=-5"], r"data_seed=-5: use a seed"),
    "seed of the start": (["init_seed=-5"], r"init_seed=-5: use a seed"),
    "a number that no machine holds": (["tokens=" + "9" * 400], r"tokens=999999999+: too large a number"),
    "what an interpolation gives": (["snapshots=${seed}"], r"snapshots=24: use a list of token counts"),
    "no latents": (["d_sae=0"], r"d_sae=0: use at least 1"),
    "empty label": (["init.label=''"], r"init.label='': it names the run's folder"),
    "label with a slash": (["init.label=a/b"], r"init.label='a/b': it names the run's folder"),
    "label with blanks around it": (["init.label=' a'"], r"init.label=' a': it names the run's folder"),
    "long label": (["init.label=" + "x" * 81], r"init.label='x+…': .* 1 to 80 bytes"),
    "not a number": (["recipe.lr=nan"], r"recipe.lr=nan: use a positive number"),
    "infinite": (["sae.threshold=inf"], r"sae.threshold=inf: use a finite number"),
    "moved key": (["recipe.bandwidth=0.1"], r"recipe.bandwidth: belongs to .* write sae.bandwidth$"),
    "no minutes": (["checkpoint_minutes=0"], r"checkpoint_minutes=0.0: use a positive number"),
    "a project that W&B does not take": (["logger=wandb", "logger.project=a/b"], r"logger.project='a/b': "),
    "a group that W&B does not take": (["logger=wandb", "logger.group=" + "x" * 129], r"logger.group='x+': "),
    "more latents than memory": (["d_sae=1000000000000"], r"d_sae=1000000000000: .* GB of memory, this"),
    "both a sweep and what Hydra shows": (["-m", "--cfg", "job"], r"-m: Hydra shows the configuration of one job"),
    "no folder": (["cache_root=''"], r"cache_root='': name a folder"),
    "jobs in one folder": (["-m", "threads=1,2"], r"threads=1 and 2: both jobs would share .*; give each its own run_"),
    "a name for what the folder holds": (["folder.l0=many"], r"folder=l0: it holds init, l0 and seed already"),
    "own value of no key": (["folder={colour:null}"], r"colour: there is no such key"),
    "a name too long for a folder": (["folder.note=" + "x" * 81], r"folder.note='x+…': .* use 1 to 80 bytes"),
    "missing model": (["lm.name=./nowhere"], r"lm.name=./nowhere: "),
    "another model than the packaged one": (["lm=smollm2_135m", "lm.name=gpt2"], r"lm.name=gpt2: .*; add lm=hf"),
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
def test_one_line_and_nothing_written(case, world, command, tmp_path, capsys):
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


LATE = (
    ["recipe=reference"], ["accelerator=gpu"], ["init.encoder=none"], ["run_root=/proc/nowhere"], ["seed=-1"],
    ["init.label=a/b"], ["batch_size=7000", "tokens=7000"], ["init.fold_postnorm=true"], ["logger=wandb"],
    ["logger=wandb", "logger.mode=online"], ["-m", "seed=0,1", "batch_size=7000", "tokens=7000"],
)  # fmt: skip


@pytest.mark.parametrize("bad", LATE)
def test_refused_before_the_cache_is_written(bad, world, command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    if bad == ["logger=wandb"]:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert command(*world, f"run_root={tmp_path / 'runs'}", f"cache_root={tmp_path / 'cache'}", *bad) == 2
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "digests.json" not in path.name]


def test_a_changed_key_of_an_unfinished_run_is_refused_before_the_cache(world, command, tmp_path, capsys):
    """The caches are gone; none is written for a run that could not go on."""
    run_root, elsewhere = f"run_root={tmp_path / 'runs'}", f"cache_root={tmp_path / 'cache'}"
    assert command(*world, run_root, "init=uniform") == 0
    next(tmp_path.rglob("metrics.json")).unlink()
    sweep = ["-m", *world, run_root, elsewhere, "init=uniform", "seed=23,24", "recipe.lr=0.001"]
    assert command(*sweep) == 2
    assert "recipe.lr: 0.0003 there, 0.001 asked for" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.bin"))
    assert not list(tmp_path.rglob("seed=23"))


@pytest.mark.parametrize("entry", [cache_entry, evaluate])
def test_other_entries_refuse_what_they_would_not_read(entry, command, tmp_path, capsys):
    for argument in ("--layer=5", "+layr=5", "+logger.colour=red"):
        assert command(argument, f"cache_root={tmp_path}", main=entry.main) == 2
        said = capsys.readouterr().err
        assert re.match(r"error: (--layer=5: write layer=5|(layr|logger.colour): there is no such key)", said), said
    assert not list(tmp_path.iterdir())


def test_too_little_disk(world, command, tmp_path, capsys):
    code = command(*world, "activations.tokens=1000000000000", f"cache_root={tmp_path}", main=cache_entry.main)
    assert code == 2
    assert re.search(r"error: activations.tokens=1000000000000: the cache needs .* free", capsys.readouterr().err)
    assert not list(tmp_path.rglob("*.bin"))


def test_empty_text(world, command, tmp_path, capsys):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(documents(1)[0])
    arguments = [f"corpus.path={tmp_path / 'text'}", f"cache_root={tmp_path}"]
    assert command(*world, *arguments, main=cache_entry.main) == 2
    remedy = r"error: corpus=files: none of its documents is in the \w+ split; more documents, or a \w+ corpus.heldout_"
    assert re.search(remedy, capsys.readouterr().err)


def test_a_disk_that_a_logger_fills_is_one_line(world, command, tmp_path, capsys, monkeypatch):
    """Lightning's CSV logger writes its own file; the system's error is not ours to see before."""

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning.pytorch.loggers.CSVLogger.log_metrics", full)
    arguments = [*world, f"run_root={tmp_path}", "init=uniform", "logger=csv"]
    assert command(*arguments) == 2
    assert "error: the disk is full" in capsys.readouterr().err
    assert command("-m", *arguments) == 1
    said = capsys.readouterr().err
    assert "seed=24: the disk is full" in said
    assert "Traceback" not in said


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path):
    program = [sys.executable, "-m", "saemd.train", "--cfg", "job"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_every_entry_has_help(command, capsys):
    for main in (jobs.main, cache_entry.main, evaluate.main):
        assert command("--help", main=main) == 0
        assert "\n    saemd " in capsys.readouterr().out


def test_the_composed_configuration_is_shown(world, command, tmp_path, capsys):
    assert command(*world, "experiment=paper", f"run_root={tmp_path / 'runs'}", "--cfg", "job") == 0
    assert "d_sae: 18432" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_errors_of_hydra_and_of_ours_take_one_way():
    assert cli.one_line(ValueError("a\n  b")) == "a b"
