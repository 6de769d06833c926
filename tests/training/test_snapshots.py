"""Snapshots along a run: kept where they are asked for, without moving the training by a bit."""

import json
import re

import pytest
import torch

from saemd import load_sae
from saemd.runs import read_run, read_snapshot, snapshots
from saemd.training import callbacks
from saemd.training import snapshots as snapshots_module
from tests.pipeline import same, train_all

pytestmark = pytest.mark.usefixtures("blank_figures")

ASKED = "snapshots=[0,1000,2_050,4096]"  # in batches of 64: steps 0, 16, 32 and the last, 64
RUN = ["tokens=4096", "init=uniform", "seed=0"]


def folders(root) -> list:
    return sorted(path.parent for path in root.rglob("metrics.json"))


def figures(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture
def train(world, command, tmp_path):
    """Train into `tmp_path / name`, and return the run's folder."""

    def run(name: str, *words: str, code: int = 0):
        assert command(*world, *RUN, *words, f"run_root={tmp_path / name}") == code
        return tmp_path / name / "init=uniform" / "l0=4" / "seed=0"

    return run


@pytest.mark.parametrize("sae", ["jumprelu", "batch_topk"])
def test_they_are_kept_and_training_does_not_move(sae, train):
    plain, kept = train("plain", f"sae={sae}"), train("kept", f"sae={sae}", ASKED)
    assert same(plain, kept)
    a, b = (torch.load(run / "last.ckpt", weights_only=True) for run in (plain, kept))
    assert torch.equal(a["state_dict"]["last_fired"], b["state_dict"]["last_fired"])
    found = snapshots(read_run(kept))
    assert list(found) == [0, 1000, 2050, 4096]
    assert [figures(folder)["tokens"] for folder in found.values()] == [0, 1024, 2048, 4096]
    end = found[4096]
    assert same(end, kept)
    own = {"tokens_per_second", "seconds", "asked_tokens", "checksum"}
    ours, theirs = ({k: v for k, v in figures(folder).items() if k not in own} for folder in (end, kept))
    assert ours == theirs


def test_a_snapshot_is_what_a_run_of_that_length_would_be(train):
    """Where no schedule looks at the end of the run. On raw activations, as the final export."""
    flat = ["recipe.lr_warmup_steps=0", "recipe.lr_decay_fraction=0", "sae.sparsity_warmup_steps=0"]
    long, short = train("long", *flat, "snapshots=[2048]"), train("short", *flat, "tokens=2048")
    folder = snapshots(read_run(long))[2048]
    assert same(folder, short)
    assert figures(folder)["fvu"] == figures(short)["fvu"]
    snapshot = read_snapshot(read_run(long), folder)
    assert snapshot.metrics["tokens"] == 2048
    assert snapshot.fire_rate.shape == (snapshot.d_sae,)
    assert load_sae(folder).W_dec.norm(dim=1).allclose(torch.ones(snapshot.d_sae))


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("saved", "seeds"), [(10, "0"), (20, "0"), (10, "0,1")])
def test_a_killed_run_loses_none_and_doubles_none(saved, seeds, world, tmp_path, monkeypatch):
    """Killed at step 40, it goes on from a checkpoint that lies before or behind a snapshot; two seeds are a stack."""
    words = [*world, *RUN[:2], f"seed={seeds}", "recipe.fast=false", "together=2", ASKED]
    assert not train_all(*words, f"run_root={tmp_path / 'whole'}")

    def after(self, trainer, *_):
        if trainer.global_step == saved:
            self.save(trainer)
        if trainer.global_step == 40:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TimedCheckpoint, "on_train_batch_end", after)
        assert train_all(*words, f"run_root={tmp_path / 'killed'}")
    assert not train_all(*words, f"run_root={tmp_path / 'killed'}")
    assert_same(tmp_path / "whole", tmp_path / "killed", 5 * len(seeds.split(",")))


def assert_same(root, other, count: int) -> None:
    """Both hold these many final SAEs and snapshots, with the same weights and figures."""
    assert len(folders(root)) == len(folders(other)) == count
    for folder in folders(root):
        twin = other / folder.relative_to(root)
        assert same(folder, twin)
        assert figures(twin)["fvu"] == pytest.approx(figures(folder)["fvu"])


def test_the_members_of_a_stack_keep_what_their_own_runs_keep(world, tmp_path):
    words = [*world, *RUN[:2], "seed=0,1", "recipe.fast=false", ASKED]
    for name, together in (("alone", 1), ("stack", 2)):
        assert not train_all(*words, f"together={together}", f"run_root={tmp_path / name}")
    assert_same(tmp_path / "alone", tmp_path / "stack", 10)


def test_a_member_that_cannot_be_kept_stops_alone(world, command, tmp_path, monkeypatch, capsys):
    real = snapshots_module.save

    def save(module, held_out, steps, config, *more):
        if config.seed == 1:
            module.sae.W_dec.data[0, 0] = float("nan")
        real(module, held_out, steps, config, *more)

    monkeypatch.setattr(snapshots_module, "save", save)
    words = [*world, "-m", *RUN[:2], "seed=0,1", "recipe.fast=false", "together=2", "snapshots=[2048]"]
    assert command(*words, f"run_root={tmp_path}") == 1
    assert capsys.readouterr().err.count("training has ended in NaN or infinite weights") == 1
    assert {path.name for path in folders(tmp_path)} == {"seed=0", "tokens=2048"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["snapshots=[2000,1000]"], r"snapshots=\[2000, 1000\]: use token counts from 0 on, each above the one before"),
        (["snapshots=[-1]"], r"snapshots=\[-1\]: use token counts from 0 on"),
        (["snapshots=[5000]"], r"snapshots=\[5000\]: training ends at tokens=4096; use at most that many"),
        (["snapshots=[1000,1010]"], r"snapshots=\[1000, 1010\]: two of them fall on one step of batch_size=64 tokens"),
        (["snapshots=[many]"], r".*snapshots"),
        (["snapshots=1000"], r".*snapshots"),
    ],
)
def test_bad_input(words, message, train, capsys, tmp_path):
    train("bad", *words, code=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.match(f"error: {message}", lines[0])
    assert not list(tmp_path.rglob("config.yaml"))


def test_what_was_not_kept_cannot_be_had_afterwards(train, capsys):
    run = train("run")
    assert train("run", "snapshots=[1024]", code=2) == run
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"error: snapshots=\[1024\]: {run} has trained beyond 1,024 tokens without keeping them; .*", line)
    kept = train("kept", "snapshots=[1024]")
    assert train("kept") == kept  # which asks for none
    assert train("kept", "snapshots=[1024]") == kept
