"""The same sweep in several processes at once: they share its runs, wait for each other, and take over what is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from saemd.composition import compose_all
from saemd.config import Config
from saemd.launchers import beside
from saemd.launchers.beside import train_all
from saemd.launchers.worker import train_stacks
from saemd.outcomes import Outcome
from saemd.runs import held, run_dir
from tests.launchers.conftest import result
from tests.launchers.test_sweeps import LONG, holder, started, wait_for

METRICS = {"l0": 4.0, "target_l0": 4, "fvu": 0.5, "dead_fraction": 0.0}


@pytest.fixture
def sweep(world, tmp_path, monkeypatch) -> list[Config]:
    """Three jobs; looking at a held one again takes no time."""
    monkeypatch.setattr(beside, "POLL_SECONDS", 0.01)
    return compose_all(["-m", *world, "init=uniform", "seed=0,1,2", f"run_root={tmp_path}"])


def trained(asked: list[Config], calls: list[list[int]]) -> Iterator[tuple[list[Config], list[Outcome]]]:
    calls.append([config.seed for config in asked])
    for config in asked:
        yield [config], [Outcome(METRICS, "1 s")]


def test_a_held_run_is_waited_for_and_taken_over(sweep, capsys):
    """Seed 1 is held until the line on it is printed, and left unfinished."""
    calls: list[list[int]] = []
    held_run, printed = ExitStack(), threading.Event()

    def release() -> None:
        printed.wait(10)
        held_run.close()

    held_run.enter_context(held(run_dir(sweep[1])))
    thread = threading.Thread(target=release)
    thread.start()
    real = beside.show
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beside, "show", lambda line: (real(line), printed.set()))
        assert not train_all(sweep, lambda asked: trained(asked, calls))
    thread.join()
    assert calls == [[0, 2], [1]]
    waiting = [line for line in capsys.readouterr().err.splitlines() if line.startswith("waiting")]
    assert len(waiting) == 1
    assert re.fullmatch(
        rf"waiting for runs that others train: {run_dir(sweep[1])} \(process {os.getpid()} on .+\)", waiting[0]
    )


def test_what_fails_here_is_not_tried_again(sweep, capsys):
    tries: list[int] = []

    def fail(asked: list[Config]) -> Iterator[tuple[list[Config], list[Outcome]]]:
        for config in asked:
            tries.append(config.seed)
            is_held = config.seed == 2 and tries.count(2) < 3  # another process is faster twice
            yield [config], [Outcome(None, "diverged", is_held=is_held)]

    assert train_all(sweep, fail)
    assert sorted(tries) == [0, 1, 2, 2, 2]
    assert capsys.readouterr().err.count("diverged") == 3


def test_a_run_of_another_configuration_is_not_waited_for_forever(sweep, world, command, capsys):
    """What the other process finished is not this sweep's run."""
    root = Path(sweep[0].run_root)
    assert command(*world, "init=uniform", "seed=1", "recipe.lr=1e-3", f"run_root={root}") == 0
    capsys.readouterr()
    assert train_all(sweep[1:2], lambda asked: pytest.fail("tried"))
    assert "holds a run of another configuration (recipe.lr: 0.001 there, 0.0003 asked for)" in capsys.readouterr().err


def test_a_stack_whose_members_are_partly_held_is_divided(sweep, capsys):
    for config in sweep:
        config.together, config.tokens = 3, 640
    left = ExitStack()
    left.enter_context(held(run_dir(sweep[1])))
    calls = []

    def train(asked: list[Config]) -> Iterator[tuple[list[Config], list[Outcome]]]:
        calls.append([config.seed for config in asked])
        left.close()  # before the second pass
        yield from train_stacks(asked)

    assert not train_all(sweep, train)
    assert calls == [[0, 2], [1]]
    assert "SAEs together" in capsys.readouterr().err


TRAINED = re.compile(r"^(init=\S+ l0=\S+ seed=\S+): done, .* tokens$", re.MULTILINE)  # the end of a progress bar


@pytest.mark.parametrize("more", [[], ["together=2"]], ids=["alone", "stacks"])
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_four_commands_share_a_sweep(more, world, serial, tmp_path):
    words = ["seed=0,1,2,3,4,5", "tokens=32768", *more]
    with ExitStack() as open_sweeps:
        sweeps = [open_sweeps.enter_context(started(world, *words, f"run_root={tmp_path}")) for _ in range(4)]
        said = [sweep.communicate(timeout=600)[1] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0] * 4, said
    assert not re.search(r"^(failed|error|Traceback)", "\n".join(said), re.MULTILINE)
    if not more:
        assert sorted(name for text in said for name in TRAINED.findall(text)) == [
            f"init=uniform l0=4 seed={seed}" for seed in range(6)
        ]
    assert sum("waiting for runs that others train" in text for text in said) >= 1
    records = json.loads((tmp_path / "stability" / "stability.json").read_text())
    assert [record["seeds"] for record in records] == [[a, b] for a in range(6) for b in range(a + 1, 6)]
    assert result(tmp_path) == serial(*words)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_commands_run_is_taken_over(world, serial, tmp_path):
    """It goes on from the last checkpoint of the killed one. Ctrl-C leaves a command that waits at once."""
    words, run = [*LONG, f"run_root={tmp_path}"], tmp_path / "init=uniform" / "l0=4" / "seed=5"
    with started(world, "seed=5", *words[1:]) as first:
        wait_for(run / "last.ckpt", first)
        first.send_signal(signal.SIGSTOP)  # so that the run is held until it is killed
        with started(world, *words) as second, started(world, *words) as third:
            for sweep in (second, third):
                assert waited(sweep)
            third.send_signal(signal.SIGINT)
            assert third.wait(timeout=60) == 130
            assert holder(run) == first.pid
            first.kill()
            _, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert result(tmp_path) == serial(*LONG)


def waited(sweep: subprocess.Popen[str]) -> bool:
    """Reads what the sweep prints until it waits."""
    assert sweep.stderr
    return any(line.startswith("waiting for runs that others train: ") for line in sweep.stderr)
