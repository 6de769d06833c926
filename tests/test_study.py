"""The study's sweeps compose, and differ within a sweep in the start, the seed and what belongs to the seed alone."""

import runpy
from functools import cache
from pathlib import Path

import pytest

from saemd.composition import compose_all
from saemd.config import Config
from saemd.runs import run_dir

STUDY = runpy.run_path(str(Path(__file__).parent.parent / "experiments" / "stability" / "study.py"))
SWEEPS = [(scale, sweep) for scale, parts in STUDY["SCALES"].items() for sweep in parts["sweeps"]]


def words_of(scale: str, sweep: str) -> list[str]:
    return [*STUDY["SCALES"][scale]["common"].split(), *sweep.split()]


@cache
def jobs(scale: str, sweep: str) -> list[Config]:
    return compose_all(["-m", *words_of(scale, sweep)])


@pytest.mark.parametrize(("scale", "sweep"), SWEEPS)
def test_every_sweep_composes(scale, sweep):
    words, configs = words_of(scale, sweep), jobs(scale, sweep)
    assert len({config.seed for config in configs}) > 1
    assert {config.init.encoder for config in configs} == {"dual"}
    assert all(config.corpus.part for config in configs), "each seed has documents of its own"
    assert {config.init.label for config in configs} == set(words[[w[:5] for w in words].index("init=")][5:].split(","))


def test_no_two_runs_share_a_folder():
    for scale, parts in STUDY["SCALES"].items():
        folders = [run_dir(config) for sweep in parts["sweeps"] for config in jobs(scale, sweep)]
        assert len(folders) == len(set(folders)), scale
