"""Exported SAEs: read by their peer's own code they reconstruct the same; bad input writes nothing."""

import json
import os
import re
import stat
import sys
import types
from pathlib import Path

import pytest
import torch

from saemd import export
from saemd.packages import fetch_package
from saemd.sae import load_sae, save_sae
from tests.sae.test_jumprelu import random_sae
from tests.stability_fakes import D, F, fake_run
from tests.test_files import no_file_above
from tests.training.test_reference import PEER

CONFIG = {"activations": {"context_length": 256}}


@pytest.fixture
def run(tmp_path) -> Path:
    """One finished run with a trained-looking SAE whose scale has been folded in."""
    folder = fake_run(tmp_path / "runs", config=CONFIG)
    sae = random_sae(D, F, threshold=0.3)
    sae.scale.fill_(50.0)
    save_sae(sae, folder, {"model_name": "tiny"})
    return folder


def raw() -> torch.Tensor:
    """Raw activations [B, D], as large as a language model's."""
    return 50 * torch.randn(200, D, generator=torch.Generator().manual_seed(1))


def test_saelens_form_is_the_runs_own_and_heals_an_older_ones(run, tmp_path, capsys):
    config = json.loads((run / "cfg.json").read_text()) | {"metadata": {"model_name": "tiny"}}  # no sae_lens_version
    (run / "cfg.json").write_text(json.dumps(config))
    assert export.main([f"run={run}", f"out={tmp_path / 'deep' / 'out'}"]) == 0
    assert str(tmp_path / "deep" / "out") in capsys.readouterr().out
    out = tmp_path / "deep" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert torch.equal(load_sae(out)(raw()), load_sae(run)(raw()))
    metadata = json.loads((out / "cfg.json").read_text())["metadata"]
    assert (metadata["sae_lens_version"], metadata["model_name"]) == ("6.0.0", "tiny")


def test_a_run_root_keeps_its_layout_and_leaves_out_what_is_unfinished(run, tmp_path):
    other = fake_run(tmp_path / "runs", init="mirror", seed=42, config=CONFIG)
    save_sae(random_sae(D, F), other)
    unfinished = fake_run(tmp_path / "runs", seed=7)
    (unfinished / "metrics.json").unlink()
    out = tmp_path / "out"
    assert export.main([f"run_root={tmp_path / 'runs'}", f"out={out}"]) == 0
    places = {path.parent.relative_to(out) for path in out.rglob("cfg.json")}
    assert places == {path.relative_to(tmp_path / "runs") for path in (run, other)}


@pytest.mark.slow
def test_dictionary_learning_reads_the_same_sae(run, tmp_path, monkeypatch, cache_root):
    """Both of its ways to load; its package's root imports nnsight, which loading never calls."""
    out = tmp_path / "out"
    assert export.main([f"run={run}", f"out={out}", "format=dictionary_learning"]) == 0
    monkeypatch.syspath_prepend(str(fetch_package(PEER, cache_root)))
    nnsight = types.ModuleType("nnsight")
    nnsight.LanguageModel = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nnsight", nnsight)
    from dictionary_learning.dictionary import JumpReluAutoEncoder  # type: ignore[import-not-found]
    from dictionary_learning.utils import load_dictionary  # type: ignore[import-not-found]

    ours, theirs = load_sae(run), JumpReluAutoEncoder.from_pretrained(str(out / "ae.pt"))
    by_config, config = load_dictionary(str(out), "cpu")
    assert (config["trainer"]["layer"], config["trainer"]["lm_name"], config["buffer"]["ctx_len"]) == (12, "tiny", 256)
    for peer in (theirs, by_config):
        assert peer.state_dict().keys() == ours.state_dict().keys() - {"scale"}
        latents = ours.encode(raw())
        assert 0.01 < (latents > 0).float().mean() < 0.99
        torch.testing.assert_close(peer.encode(raw()), latents)
        torch.testing.assert_close(peer(raw()), ours(raw()))


def test_negative_thresholds_are_told(run, tmp_path, capsys):
    sae = load_sae(run)
    with torch.no_grad():
        sae.get_parameter("threshold")[:3] = -1
    save_sae(sae, run)
    assert export.main([f"run={run}", f"out={tmp_path / 'out'}"]) == 0
    assert "3 latents have θ < 0" in capsys.readouterr().err


BAD = {
    "nothing asked for": ([], r"run=…: give either"),
    "both": (["run={run}", "run_root={root}", "out={out}"], r"run=…: give either"),
    "no out": (["run={run}"], r"out=…: name the folder"),
    "unknown key": (["runs={run}", "out={out}"], r"runs=.*: known are run=…"),
    "no value": (["run=", "out={out}"], r"run=: is empty"),
    "format": (["run={run}", "out={out}", "format=sparsify"], r"format=sparsify: known are saelens, dictionary_learn"),
    "no run there": (["run={root}", "out={out}"], r"run=.*: no finished run here"),
    "empty run root": (["run_root={run}", "out={out}"], r"run_root=.*: no finished run below it"),
    "out is taken": (["run={run}", "out={root}"], r"out=.*: there is something here already"),
    "out cannot be": (["run={run}", "out=/dev/null/x"], r"/dev/null/x: cannot be written"),
    "a damaged run": (["run_root={root}", "out={out}", "format=dictionary_learning"], r"run=.*seed=42: cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_takes_one_line_and_writes_nothing(case, run, tmp_path, capsys):
    arguments, pattern = BAD[case]
    if case == "a damaged run":  # found after the first was written
        (fake_run(tmp_path / "runs", seed=42, config=CONFIG) / "config.yaml").write_text("config: {}")
    before = sorted(tmp_path.rglob("*"))
    places = {"run": run, "root": tmp_path / "runs", "out": tmp_path / "out"}
    assert export.main([argument.format(**places) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.match(f"error: {pattern}", lines[0]), lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_truncated_weights(run, tmp_path, capsys):
    weights = run / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert export.main([f"run={run}", f"out={tmp_path / 'out'}"]) == 2
    assert re.match(r"error: run=.*: cannot be read \(sae_weights.safetensors ", capsys.readouterr().err)


def test_help_holds_commands_that_parse(capsys):
    assert export.main(["--help"]) == 0
    commands = [line.split("#")[0].split()[2:] for line in capsys.readouterr().out.splitlines() if "    saemd" in line]
    assert len(commands) == 3
    assert all(export.parse(command) for command in commands)


def test_others_may_read_what_is_exported(run, tmp_path):
    before = os.umask(0o022)
    try:
        for form in export.FORMATS:
            assert export.main([f"run={run}", f"out={tmp_path / form}", f"format={form}"]) == 0
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode)
             for form in export.FORMATS for path in (tmp_path / form, *(tmp_path / form).iterdir())}  # fmt: skip
    assert modes == {
        "saelens": 0o755, "saelens/cfg.json": 0o644, "saelens/sae_weights.safetensors": 0o644,
        "dictionary_learning": 0o755, "dictionary_learning/ae.pt": 0o644, "dictionary_learning/config.json": 0o644,
    }  # fmt: skip


@pytest.mark.parametrize("place", ["init=uniform/l0=40/seed=99", "init=uniform/l0=40/seed=24/out", "init=copy"])
def test_an_export_among_the_runs_is_refused(place, run, tmp_path, capsys):
    """There the next training, or comparison, would take it for a run."""
    out = tmp_path / "runs" / place
    assert export.main([f"run={run}", f"out={out}"]) == 2
    assert f"error: out={out}: lies among the runs" in capsys.readouterr().err
    assert not out.exists()
    assert export.main([f"run_root={tmp_path / 'runs'}", f"out={tmp_path / 'runs' / 'exported'}"]) == 0


def test_the_home_folder_is_known_by_its_sign(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    place = run.relative_to(tmp_path)
    assert export.main([f"run=~/{place}", "out=~/one"]) == 0
    assert export.main(["run_root=~/runs", "out=~/all"]) == 0
    assert (tmp_path / "one" / "cfg.json").is_file()
    assert len(list((tmp_path / "all").rglob("cfg.json"))) == 1


@pytest.mark.parametrize("form", export.FORMATS)
def test_a_full_disk_leaves_nothing_of_an_export(form, run, tmp_path, capsys):
    with no_file_above(1_000):
        assert export.main([f"run={run}", f"out={tmp_path / 'out'}", f"format={form}"]) == 2
    assert re.match(r"error: .*/out: the disk is full \(File too large\); make room", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
