"""Jobs of a sweep that train together from one stream: the same runs as one by one, files and failures included."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as pl
import numpy as np
import pytest
import torch
import yaml

from saemd.sae import JumpReLUSAE
from saemd.sae.fast import FastLoss
from saemd.training.checkpoints import join, split, step_of
from saemd.training.config import RecipeConfig
from saemd.training.groups import groups
from saemd.training.module import SAETraining
from saemd.training.together import Together
from tests.test_logging import logged, of_kind, offline_run, summary
from tests.test_sweep import command, same, weights, world  # noqa: F401 - fixtures

CLOCK = ("seconds", "tokens_per_second", "trained_together")


def run(root: Path, l0: int = 4, seed: int = 0, init: str = "uniform") -> Path:
    return root / f"init={init}" / f"l0={l0}" / f"seed={seed}"


def metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
def test_the_same_runs_as_one_by_one(world, command, tmp_path, capsys):  # noqa: F811
    """Bit for bit on a CPU, dense steps, sparse steps and both starts among them; with the same configuration."""
    sweep = ["-m", *world, "init=mirror,uniform", "l0=2,4,8", "seed=0,1"]
    assert command(*sweep, f"run_root={tmp_path / 'alone'}") == 0
    capsys.readouterr()
    assert command(*sweep, f"run_root={tmp_path / 'group'}", "together=4") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if " dead " in line]
    assert [re.search(r", (\d) together$", line)[1] for line in told] == ["4"] * 8 + ["2"] * 4  # type: ignore[index]
    for folder in sorted((tmp_path / "alone").glob("init=*/l0=*/seed=*")):
        other = tmp_path / "group" / folder.relative_to(tmp_path / "alone")
        assert same(folder, other), folder
        assert {path.name for path in folder.iterdir()} == {path.name for path in other.iterdir()}
        one, two = metrics(folder), metrics(other)
        assert {k: v for k, v in one.items() if k not in CLOCK} == {k: v for k, v in two.items() if k not in CLOCK}
        assert one["trained_together"] == 1
        with np.load(folder / "latents.npz") as a, np.load(other / "latents.npz") as b:
            assert all(np.array_equal(a[name], b[name]) for name in a.files)
        configs = [yaml.safe_load((path / "config.yaml").read_text()) for path in (folder, other)]
        assert configs[0]["fingerprint"] == configs[1]["fingerprint"]
        assert configs[0]["start"] == configs[1]["start"]
    texts = [(tmp_path / way / "stability" / "stability.json").read_text() for way in ("alone", "group")]
    assert texts[0] == texts[1]
    assert command(*sweep, f"run_root={tmp_path / 'group'}") == 0, "a run trained together is the same run"


def start_and_kill(arguments: list[str], checkpoint: Path) -> None:
    """The command in a process of its own, killed as soon as the checkpoint is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "saemd.train", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not checkpoint.is_file():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_group_ends_bit_identical(world, command, tmp_path):  # noqa: F811
    """kill -9 in the middle; then together again, and one by one from the same checkpoints."""
    sweep = ["-m", *world, "init=uniform", "l0=2,4,8", "seed=0", "tokens=65536", "checkpoint_minutes=0.001"]
    again, whole = tmp_path / "again", tmp_path / "whole"
    start_and_kill([*sweep, "together=3", f"run_root={again}"], run(again, 8) / "last.ckpt")
    steps = [step_of(run(again, l0)) for l0 in (2, 4, 8)]
    assert 0 < min(steps) <= max(steps) < 1024
    assert not list(again.rglob("metrics.json"))
    alone = tmp_path / "alone"
    subprocess.run(["cp", "-r", str(again), str(alone)], check=True)
    assert command(*sweep, "together=3", f"run_root={again}") == 0
    assert command(*sweep, f"run_root={alone}") == 0
    assert command(*sweep, f"run_root={whole}") == 0
    for l0 in (2, 4, 8):
        assert same(run(again, l0), run(whole, l0)), l0
        assert same(run(alone, l0), run(whole, l0)), l0


@pytest.mark.slow
def test_runs_at_different_steps_go_on_one_after_another(world, command, tmp_path):  # noqa: F811
    """One run is at the middle, the other has not begun, as when jobs were added to a sweep that was stopped."""
    arguments = [*world, "init=uniform", "seed=0", "tokens=65536", "checkpoint_minutes=0.001"]
    mixed, whole = tmp_path / "mixed", tmp_path / "whole"
    start_and_kill([*arguments, "l0=4", f"run_root={mixed}"], run(mixed) / "last.ckpt")
    assert command("-m", *arguments, "l0=2,4", "together=2", f"run_root={mixed}") == 0
    assert command("-m", *arguments, "l0=2,4", f"run_root={whole}") == 0
    assert all(same(run(mixed, l0), run(whole, l0)) for l0 in (2, 4))
    assert [metrics(run(mixed, l0))["trained_together"] for l0 in (2, 4)] == [1, 1]


def test_a_folder_of_another_configuration_is_refused_before_the_first_job(world, command, tmp_path, capsys):  # noqa: F811
    arguments = [*world, f"run_root={tmp_path}", "init=uniform", "seed=0"]
    assert command(*arguments, "l0=4", "recipe.lr=0.001") == 0
    (run(tmp_path) / "metrics.json").unlink()  # as if it had not been finished
    before = weights(run(tmp_path))
    capsys.readouterr()
    assert command("-m", *arguments, "l0=2,4,8", "together=4") == 2
    assert capsys.readouterr().err.count("recipe.lr: 0.001 there, 0.0003 asked for") == 1
    assert not run(tmp_path, 2).exists()
    assert all(torch.equal(value, weights(run(tmp_path))[name]) for name, value in before.items())


@pytest.mark.slow
def test_a_run_that_fails_on_its_way_does_not_take_the_others(world, command, tmp_path, capsys, monkeypatch):  # noqa: F811
    """At step 40 one run's penalty cannot be computed; the others end as they would have, and it goes on later."""
    sweep = ["-m", *world, "init=uniform", "l0=2,4,8", "seed=0", "checkpoint_minutes=0.0001"]
    penalty = SAETraining.penalty

    def breaks(self, step):
        if self.target_l0 == 4 and step == 40:
            raise RuntimeError("a broken penalty")
        return penalty(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(SAETraining, "penalty", breaks)
        assert command(*sweep, "together=3", f"run_root={tmp_path / 'group'}") == 1
    error = capsys.readouterr().err
    assert error.count("failed") == 1
    assert "l0=4/seed=0: a broken penalty" in error.replace("\n", "")
    assert not (run(tmp_path / "group") / "metrics.json").exists()
    assert 0 < step_of(run(tmp_path / "group")) <= 40
    assert command(*sweep, "together=3", f"run_root={tmp_path / 'group'}") == 0
    assert command(*sweep, f"run_root={tmp_path / 'alone'}") == 0
    assert all(same(run(tmp_path / "group", l0), run(tmp_path / "alone", l0)) for l0 in (2, 4, 8))


def test_where_every_run_fails_the_sweep_does(world, command, tmp_path, capsys):  # noqa: F811
    sweep = ["-m", *world, "init=uniform", "l0=2,4", "seed=0", "recipe.lr=1e30", "together=2"]
    assert command(*sweep, f"run_root={tmp_path}") == 1
    assert capsys.readouterr().err.count("failed") == 2
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.slow
@pytest.mark.parametrize("fast", ["true", "false"])
def test_each_run_logs_its_own_figures(world, command, tmp_path, fast):  # noqa: F811
    """A CSV for each, with the rows that the run alone would have written, but for the clock; the plain path too."""
    sweep = ["-m", *world, "init=uniform", "l0=2,8", "seed=0", "logger=csv", f"recipe.fast={fast}"]
    for way, key in (("alone", "together=1"), ("group", "together=2")):
        assert command(*sweep, key, f"run_root={tmp_path / way}") == 0
    for l0 in (2, 8):
        rows = []
        for way in ("alone", "group"):
            (path,) = run(tmp_path / way, l0).rglob("metrics.csv")
            with open(path) as file:
                there = list(csv.DictReader(file))
            clock = {key for key in there[0] if key.rsplit("/")[-1] in CLOCK}
            rows.append([{k: v for k, v in row.items() if k not in clock} for row in there])
        assert rows[0] == rows[1]
        assert len(rows[0]) == 15  # steps 1, 11, … 121 and the last, and the final figures
        assert rows[0][-1]["final/target_l0"] == str(l0)
        assert same(run(tmp_path / "alone", l0), run(tmp_path / "group", l0))


def test_each_run_is_a_wandb_run_that_ends(world, command, tmp_path, monkeypatch):  # noqa: F811
    """Two at once, one of which fails on its way: neither has the other's rows, and each has its exit code."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    penalty = SAETraining.penalty

    def breaks(self, step):
        if self.target_l0 == 4 and step == 40:
            raise RuntimeError("a broken penalty")
        return penalty(self, step)

    monkeypatch.setattr(SAETraining, "penalty", breaks)
    sweep = ["-m", *world, "init=uniform", "l0=4,8", "seed=0", "logger=wandb", "logger.mode=offline", "together=2"]
    assert command(*sweep, f"run_root={tmp_path / 'runs'}") == 1
    failed, done = (offline_run(run(tmp_path / "runs", l0)) for l0 in (4, 8))
    assert [exit.exit_code for found in (failed, done) for exit in of_kind(found, "exit")] == [1, 0]
    assert [len([row for row in logged(found) if "train/l0" in row]) for found in (failed, done)] == [4, 14]
    assert summary(done)["final/target_l0"] == 8
    assert "final/target_l0" not in summary(failed)


def test_finished_runs_are_left_alone(world, command, tmp_path):  # noqa: F811
    arguments = [*world, f"run_root={tmp_path}", "init=uniform", "seed=0"]
    assert command(*arguments, "l0=4") == 0
    before = (run(tmp_path) / "metrics.json").stat().st_mtime_ns
    assert command("-m", *arguments, "l0=2,4,8", "together=2") == 0
    assert (run(tmp_path) / "metrics.json").stat().st_mtime_ns == before
    assert [metrics(run(tmp_path, l0))["trained_together"] for l0 in (2, 4, 8)] == [2, 1, 2]


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["together=2"], r"together=2: one job trains alone; add -m"),
        (["-m", "together=0", "l0=2,4"], r"together=0: use 1"),
        (["-m", "together=2", "l0=2,4", "hydra/launcher=basic"], r"together=2: such jobs share one process"),
    ],
)
def test_what_cannot_train_together_is_refused(world, command, tmp_path, capsys, words, pattern):  # noqa: F811
    assert command(*world, f"run_root={tmp_path}", *words) == 2
    assert re.search(rf"^error: {pattern}", capsys.readouterr().err, re.MULTILINE)
    assert not list(tmp_path.iterdir())


def test_groups_share_a_stream_and_are_not_too_large(world):  # noqa: F811
    from saemd.cli import compose_all

    found = groups(compose_all(["-m", *world, "init=mirror,uniform", "l0=2,4", "seed=0,1", "together=3"]))
    named = [[(config.init.label, config.l0, config.seed) for config in group] for group in found]
    assert named == [
        [("mirror", 2, 0), ("mirror", 4, 0), ("uniform", 2, 0)],
        [("mirror", 2, 1), ("mirror", 4, 1), ("uniform", 2, 1)],
        [("uniform", 4, 0)],
        [("uniform", 4, 1)],
    ]
    apart = groups(compose_all(["-m", *world, "tokens=4096,8192", "together=2", "data_seed=0", "seed=0,1"]))
    assert [[(config.tokens, config.seed) for config in group] for group in apart] == [
        [(4096, 0), (4096, 1)], [(8192, 0), (8192, 1)],
    ]  # fmt: skip


def test_a_checkpoint_splits_into_those_of_runs_alone_and_joins_again():
    saes = [JumpReLUSAE(8, 16), JumpReLUSAE(8, 24)]
    members = [SAETraining(sae, RecipeConfig(), target_l0=4, steps=20, mean_D=torch.zeros(8)) for sae in saes]
    together = Together(members)
    parts = together.configure_optimizers()
    whole = {
        "global_step": 3,
        "state_dict": together.state_dict(),
        "optimizer_states": [parts["optimizer"].state_dict()],
        "lr_schedulers": [parts["lr_scheduler"]["scheduler"].state_dict()],
    }
    apart = split(whole, 2)
    for part, member in zip(apart, members, strict=True):
        assert part["state_dict"].keys() == member.state_dict().keys()
        assert part["optimizer_states"] == [member.optimizer.state_dict()]
        assert part["state_dict"]["sae.W_enc"].data_ptr() == member.sae.W_enc.data_ptr()
    assert join(apart) == whole
    with pytest.raises(AssertionError, match="different steps"):
        join([apart[0], {**apart[1], "global_step": 4}])


@pytest.mark.parametrize("threshold", [0.0, 2.0])  # every latent that can be is active; few are
def test_members_add_no_activations_to_the_memory(threshold):
    """The buffers of the shared loss are those of one run, and no gradient outlives its turn."""

    def train(n: int) -> tuple[FastLoss, list[SAETraining]]:
        loss, members = FastLoss(), []
        for i in range(n):
            sae = JumpReLUSAE(8, 64)
            with torch.no_grad():
                sae.W_dec.copy_(torch.randn(64, 8, generator=torch.Generator().manual_seed(i)))
                sae.normalise_decoder()
                sae.W_enc.copy_(sae.W_dec.T)
                sae.threshold.fill_(max(threshold, 1e-6))
            members.append(SAETraining(sae, RecipeConfig(), target_l0=4, steps=20, mean_D=torch.zeros(8), loss=loss))
        generator = torch.Generator().manual_seed(0)
        batches = [torch.randn(512, 8, generator=generator) for _ in range(20)]
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=20, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Together(members), torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        return loss, members

    (one, alone), (four, group) = train(1), train(4)
    sizes = [sum(buffer.nbytes for buffer in loss._buffers.values()) for loss in (one, four)]
    assert sizes[1] < sizes[0] + 512 * 64 * 4 / 2, "less than half a matrix [B, F] more"
    assert all(parameter.grad is None for member in group for parameter in member.parameters())
    assert torch.equal(alone[0].sae.W_enc, group[0].sae.W_enc)
