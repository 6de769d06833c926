"""Exported SAEs: read by their peer's own code they reconstruct the same; bad input writes nothing."""

import json
import os
import re
import stat
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from saemd import export
from saemd.packages import fetch_package
from saemd.sae import load_sae, save_sae
from saemd.sae.topk import TopKSAE
from saemd.stability import compare_root
from tests.sae.test_jumprelu import random_sae
from tests.stability_fakes import D, F, fake_run, rows
from tests.test_files import no_file_above
from tests.training.test_reference import PEER

CONFIG = {"activations": {"context_length": 256}}
JUMPRELU = ("saelens", "dictionary_learning", "hub")  # formats that hold a JumpReLU SAE


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


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


def test_sparsify_has_the_encoder_by_latents(tmp_path):
    run = fake_run(tmp_path / "runs", config=CONFIG)
    sae = TopKSAE(D, F, target_l0=4, scale=50.0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save_sae(sae, run)
    assert export.main([f"run={run}", f"out={tmp_path / 'out'}", "format=sparsify"]) == 0
    config = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert (config["num_latents"], config["k"], config["d_in"], config["transcode"]) == (F, 4, D, False)
    weights = load_file(tmp_path / "out" / "sae.safetensors")
    assert torch.equal(weights["encoder.weight"], load_sae(run).W_enc.T)
    torch.testing.assert_close(load_sae(tmp_path / "out")(raw()), sae(raw()), rtol=1e-4, atol=1e-3)


def test_a_repository_for_the_hub_has_its_card(tmp_path, monkeypatch):
    """Metrics, stability and recurrence are those of the run; the address on the card loads the SAE."""
    lm = {"name": "org/tiny", "revision": None, "licence": "Apache-2.0"}
    runs = [fake_run(tmp_path / "runs", "mirror", seed=seed, start=rows(5), config={"lm": lm}) for seed in (1, 2, 3)]
    for run in runs:
        save_sae(load_sae(run), run)  # with cfg.json
    compare_root(tmp_path / "runs")
    (tmp_path / "runs" / "stability" / "figures").mkdir()
    (tmp_path / "runs" / "stability" / "figures" / "summary.png").write_bytes(b"png")
    assert export.main([f"run_root={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "format=hub"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "saelens", "tags": ["sparse-autoencoder", "saemd"], "base_model": "org/tiny",
        "license": "apache-2.0",
    }  # fmt: skip
    place = runs[0].relative_to(tmp_path / "runs")
    assert f"| `{place}` | jumprelu | 48 | 40 | 41.2 | 0.206 | 0.794 | 0.02 | 1,000,000 |" in text
    (pair,) = [line for line in text.splitlines() if line.startswith("| mirror | 40 | 1, 2 | yes |")]
    record = json.loads((tmp_path / "runs" / "stability" / "stability.json").read_text())[0]
    assert f"| {record['shared']:.3g} |" in pair
    assert f'sae = saemd.load_sae("hf://<organisation>/<name>/{place}")' in text
    assert "comes under: Apache-2.0." in text
    assert (tmp_path / "out" / "stability.png").read_bytes() == b"png"
    found = json.loads((tmp_path / "out" / place / "recurrence.json").read_text())
    with np.load(tmp_path / "runs" / "stability" / "recurrence" / "mirror_l0=40.npz") as file:
        assert found == {"compared": 2, "returns": file["returns"][0].tolist()}
    assert torch.equal(load_sae(tmp_path / "out" / place).W_dec, load_sae(runs[0]).W_dec)


def test_a_run_that_was_never_compared_goes_to_the_hub_too(run, tmp_path, monkeypatch):
    calls: list[Any] = []
    methods: dict[str, Any] = {
        name: lambda _, name=name, **given: calls.append((name, given)) for name in ("whoami", "create_repo")
    }
    methods["upload_folder"] = lambda _, repo_id, folder_path: calls.append((repo_id, sorted(folder_path.iterdir())))
    monkeypatch.setattr("huggingface_hub.HfApi", type("HfApi", (), methods))
    out = tmp_path / "out"
    assert export.main([f"run={run}", f"out={out}", "format=hub", "repo=me/saes"]) == 0
    place = run.relative_to(tmp_path / "runs").as_posix()
    card = (out / "README.md").read_text()
    assert f'SAE.from_pretrained("me/saes", "{place}")' in card
    assert "license" not in card.split("---")[1]
    assert "terms that its own page states" in card
    assert "Stability" not in card
    assert calls == [
        ("whoami", {}), ("create_repo", {"repo_id": "me/saes", "exist_ok": True}),
        ("me/saes", [out / "README.md", out / "init=uniform"]),
    ]  # fmt: skip


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
    "format": (["run={run}", "out={out}", "format=gguf"], r"format=gguf: known are saelens, dictionary_learn"),
    "no class": (
        ["run={run}", "out={out}", "format=sparsify"],
        r"format=sparsify: it knows TopK alone, and .* jumprelu",
    ),
    "repo without hub": (["run={run}", "out={out}", "repo=me/x"], r"repo=me/x: only format=hub is uploaded"),
    "no repo": (["run={run}", "out={out}", "format=hub", "repo=me"], r"repo=me: write <organisation>/<name>"),
    "no hub": (["run={run}", "out={out}", "format=hub", "repo=me/x"], r"repo=me/x: the hub refused .*log in with"),
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
    assert len(commands) == 5
    assert all(export.parse(command) for command in commands)


def test_others_may_read_what_is_exported(run, tmp_path):
    before = os.umask(0o022)
    try:
        for form in JUMPRELU:
            assert export.main([f"run={run}", f"out={tmp_path / form}", f"format={form}"]) == 0
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode)
             for form in JUMPRELU[:2] for path in (tmp_path / form, *(tmp_path / form).iterdir())}  # fmt: skip
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


@pytest.mark.parametrize("form", JUMPRELU)
def test_a_full_disk_leaves_nothing_of_an_export(form, run, tmp_path, capsys):
    with no_file_above(1_000):
        assert export.main([f"run={run}", f"out={tmp_path / 'out'}", f"format={form}"]) == 2
    assert re.match(r"error: .*/out: the disk is full \(File too large\); make room", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
