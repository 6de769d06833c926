"""Runs that were written before a key existed are the runs of its neutral value."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import yaml

from saemd.composition import compose_all
from saemd.runs import identity
from tests.runs.short_run import PLACE, SHORT

ORIGIN: Any = SimpleNamespace(fingerprint="activations", lm_fingerprint="model", corpus_fingerprint="text")


def delete_later(values: dict[str, Any]) -> None:
    for key in identity.later(values):
        group, _, name = key.rpartition(".")
        (values[group] if group else values).pop(name, None)


def test_added_keys_change_a_run_only_away_from_their_neutral_value():
    (config,) = compose_all([])
    values = dataclasses.asdict(config)
    delete_later(values)
    assert identity.decisive(values, "activations") == identity.decisive(dataclasses.asdict(config), "activations")
    (other,) = compose_all(["recipe.encoder_decay=0.5"])
    ours, theirs = identity.identify(config, ORIGIN), identity.identify(other, ORIGIN)
    assert ours["sibling_fingerprint"] != theirs["sibling_fingerprint"]


def test_a_run_of_before_is_read_and_not_trained_again(world, command, whole, capsys):
    path = whole / "config.yaml"
    before = path.read_text()
    about = yaml.safe_load(before)
    delete_later(about["config"])
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
