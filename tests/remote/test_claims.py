"""Claims: one machine at a time writes a folder of a store."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from saemd.composition import compose_all
from saemd.config import Config
from saemd.errors import UserError
from saemd.launchers import beside
from saemd.outcomes import Outcome
from saemd.remote import claims
from saemd.remote.claims import claimed
from saemd.remote.urls import RUN_ROOT, local_folder
from saemd.runs import held, holder, run_dir
from tests.remote.conftest import objects

Machine = Callable[[str], None]
NAME = "runs/init=a/.claim"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: None)


def run() -> Path:
    return local_folder(RUN_ROOT, "memory://bucket/runs") / "init=a"


def test_a_second_machine_is_refused_while_the_first_one_trains(bucket: str, machine: Machine) -> None:
    with held(run()):
        assert NAME in objects(bucket)
        machine("second")
        with pytest.raises(UserError, match=r"^memory://bucket/runs/init=a: the machine .* stop it$"), held(run()):
            pass
        assert NAME in objects(bucket)
        machine("first")
    assert NAME not in objects(bucket)
    machine("second")
    with held(run()):
        pass


def test_it_says_who_trains(bucket: str, machine: Machine) -> None:
    assert holder(run()) is None
    with held(run()):
        assert holder(run()) == f"process {os.getpid()} on {platform.node()}"
        machine("second")
        assert holder(run()) == f"the machine {platform.node()}"
        machine("first")
    machine("second")
    assert holder(run()) is None


def test_a_sweep_takes_over_what_another_machine_leaves(
    world: list[str], bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It waits for the claim to end, and then has the other machine's checkpoint."""
    (config,) = compose_all([*world, "init=uniform", "seed=0", "run_root=memory://bucket/runs"])
    memory, place = fsspec.filesystem("memory"), "/bucket/runs/init=uniform/l0=4/seed=0"
    theirs = {"id": "other", "machine": "far", "until": time.time() + 100}
    memory.pipe_file(f"{place}/.claim", json.dumps(theirs).encode())
    monkeypatch.setattr(beside.time, "sleep", lambda seconds: memory.rm_file(f"{place}/.claim"))

    def train(asked: list[Config]) -> Iterator[tuple[list[Config], list[Outcome]]]:
        assert (run_dir(config) / "last.ckpt").read_bytes() == b"of the other machine"
        yield asked, [Outcome({"l0": 4.0, "target_l0": 4, "fvu": 0.5, "dead_fraction": 0.0}, "1 s")]

    memory.pipe_file(f"{place}/last.ckpt", b"of the other machine")
    assert not beside.train_all([config], train)
    assert f"{run_dir(config)} (the machine far)" in capsys.readouterr().err


def test_one_that_waits_goes_on_when_the_claim_ends(bucket: str, machine: Machine) -> None:
    lines: list[str] = []

    def end(line: str) -> None:
        lines.append(line)
        fsspec.filesystem("memory").rm_file(f"/bucket/{NAME}")

    with claimed(run(), lines.append):
        machine("second")
        with claimed(run(), end):
            assert len(lines) == 1
        machine("first")


def test_the_claim_of_a_dead_holder_is_taken(bucket: str, machine: Machine) -> None:
    """At once on its own machine, and after it lapsed on another."""
    memory = fsspec.filesystem("memory")
    with claimed(run(), pytest.fail):
        left = json.loads(memory.cat_file(f"/bucket/{NAME}"))
    memory.pipe_file(f"/bucket/{NAME}", json.dumps(left).encode())
    with claimed(run(), pytest.fail):
        pass
    machine("second")
    memory.pipe_file(f"/bucket/{NAME}", json.dumps({**left, "until": time.time() - 1}).encode())
    with claimed(run(), pytest.fail):
        assert json.loads(memory.cat_file(f"/bucket/{NAME}"))["id"] != left["id"]


def test_a_claim_is_renewed_while_it_is_held(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.01)
    memory = fsspec.filesystem("memory")
    with claimed(run(), pytest.fail):
        first = json.loads(memory.cat_file(f"/bucket/{NAME}"))["until"]
        end = time.monotonic() + 5
        while json.loads(memory.cat_file(f"/bucket/{NAME}"))["until"] == first:
            assert time.monotonic() < end
    assert NAME not in objects(bucket)


def test_a_claim_that_another_machine_has_taken_is_left_to_it(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory, theirs = fsspec.filesystem("memory"), {"id": "other", "machine": "far", "until": time.time() + 100}
    with claimed(run(), pytest.fail):
        memory.pipe_file(f"/bucket/{NAME}", json.dumps(theirs).encode())
    assert json.loads(objects(bucket)[NAME]) == theirs
    assert "the machine far has taken over; stop this command" in capsys.readouterr().err


def test_what_is_no_claim_is_named(bucket: str) -> None:
    fsspec.filesystem("memory").pipe_file(f"/bucket/{NAME}", b"nonsense")
    with pytest.raises(UserError, match="is no claim of saemd; remove it"), claimed(run(), pytest.fail):
        pass


def test_a_folder_of_this_machine_needs_none(tmp_path: Path) -> None:
    with claimed(tmp_path, pytest.fail):
        assert not [*tmp_path.iterdir()]
