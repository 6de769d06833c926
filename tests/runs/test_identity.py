"""Runs that were written before a key existed are the runs of its neutral value."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from saemd.composition import compose_all
from saemd.runs import identity
from tests.runs.short_run import PLACE, SHORT

ORIGIN: Any = SimpleNamespace(
    fingerprint="activations", whole_fingerprint="activations", lm_fingerprint="model", corpus_fingerprint="text"
)

CACHE = "0" * 64


def delete_later(values: dict[str, Any]) -> None:
    for key in identity.later(values):
        group, _, name = key.rpartition(".")
        (values[group] if group else values).pop(name, None)


def test_added_keys_change_a_run_only_away_from_their_neutral_value():
    (config,) = compose_all([])
    values = dataclasses.asdict(config)
    delete_later(values)
    assert values != dataclasses.asdict(config)
    assert identity.decisive(values, "activations") == identity.decisive(dataclasses.asdict(config), "activations")
    (other,) = compose_all(["recipe.encoder_decay=0.5"])
    ours, theirs = identity.identify(config, ORIGIN), identity.identify(other, ORIGIN)
    assert ours["sibling_fingerprint"] != theirs["sibling_fingerprint"]


def test_a_run_of_before_is_read_and_not_trained_again(world, command, whole, capsys):
    path = whole / "config.yaml"
    before = path.read_text()
    about = yaml.safe_load(before)
    delete_later(about["config"])
    del about["checksum"]
    path.write_text(yaml.safe_dump(about))
    written = (whole / "metrics.json").stat().st_mtime_ns
    root = str(whole).removesuffix(f"/{PLACE}")
    try:
        assert command(*world, *SHORT, f"run_root={root}") == 0
        assert (whole / "metrics.json").stat().st_mtime_ns == written
        assert command(*world, *SHORT, f"run_root={root}", "recipe.encoder_decay=0.5") == 2
        assert "recipe.encoder_decay: None there, 0.5 asked for" in capsys.readouterr().err
    finally:
        path.write_text(before)


@pytest.mark.parametrize("start", ["mirror", "uniform"])
def test_runs_of_earlier_versions_keep_their_identity(start):
    now = dataclasses.asdict(compose_all([f"init={start}"])[0])
    then = dataclasses.asdict(compose_all([f"init={start}"])[0])
    delete_later(then)
    assert identity.decisive(then, CACHE) == identity.decisive(now, CACHE)
    assert identity.common(then, CACHE) == identity.common(now, CACHE)


@pytest.mark.parametrize("word", ["init.offset=-1", "documents=0/2", "activations.hook=mlp_out"])
def test_other_values_of_these_keys_make_another_run(word):
    plain, other = (dataclasses.asdict(compose_all(words)[0]) for words in ([], [word]))
    assert identity.decisive(plain, CACHE) != identity.decisive(other, CACHE)
