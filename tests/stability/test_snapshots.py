"""Real runs of the tiny model: their starts, their snapshots, and the activations of their matched latents."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

from saemd.runs import find_runs, read_run, read_snapshot, read_weights, snapshots
from saemd.sae import JumpReLUSAE
from saemd.stability.__main__ import main
from saemd.stability.activity import correlations
from saemd.stability.starts import start_of

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A run root with two seeds of two starts, kept at 0 and 1,024 tokens."""
    from saemd.composition import compose_all
    from saemd.training.run import train

    root = tmp_path_factory.mktemp("trained")
    for config in compose_all(
        [*world, "-m", "init=mirror,uniform", "seed=0,1", "tokens=2048", "snapshots=[0,1024]", f"run_root={root}"]
    ):
        train(config)
    return root


def records(root) -> list[dict]:
    return json.loads((root / "stability" / "stability.json").read_text())


def test_a_drawn_start_is_the_kept_one(trained, tmp_path):
    """Of uniform, with the snapshot and without; of mirror, which takes the model's weights, only with it."""
    shutil.copytree(trained, root := tmp_path / "runs")
    for run in find_runs(root)[0]:
        kept = start_of(run)
        assert kept is not None
        shutil.rmtree(snapshots(run)[0])
        drawn = start_of(read_run(run.path))
        assert (drawn is None) == (run.init == "mirror")
        if drawn is not None:
            torch.testing.assert_close(drawn.W_dec, kept.W_dec)
            torch.testing.assert_close(drawn.W_enc, kept.W_enc)


def test_what_was_learned_and_the_untrained_agreement(trained, tmp_path):
    shutil.copytree(trained, root := tmp_path / "runs")
    assert main([f"run_root={root}"]) == 0
    mirror, uniform = records(root)
    along = json.loads((root / "stability" / "snapshots.json").read_text())
    assert [(r["init"], r["tokens"]) for r in along] == [
        ("mirror", 0), ("uniform", 0), ("mirror", 1024), ("uniform", 1024)
    ]  # fmt: skip
    assert mirror["untrained_shared"] == along[0]["shared"] == 1
    assert uniform["untrained_mean_cos_dec"] == pytest.approx(along[1]["mean_cos_dec"], abs=1e-5)
    assert uniform["untrained_same_match"] == along[1]["same_match"] < 1
    a, b = (read_weights(run) for run in find_runs(root)[0] if run.init == "mirror")
    start = read_weights(read_snapshot(run := find_runs(root)[0][0], snapshots(run)[0]))
    with np.load(root / "stability" / "pairs" / "init=mirror_l0=4_seeds=0-1.npz") as file:
        moved = a.W_dec - start.W_dec, (b.W_dec - start.W_dec)[file["match_dec"]]
        at = torch.from_numpy(file["match_dec"])
    assert (at == torch.arange(len(at))).float().mean() > 0.9
    expected = torch.nn.functional.cosine_similarity(*moved).mean().item()
    assert mirror["learned_dec"] == pytest.approx(expected, abs=0.1)  # partners that moved keep another start


def test_activations_of_matched_latents_are_correlated(trained, tmp_path, capsys):
    shutil.copytree(trained, root := tmp_path / "runs")
    assert main([f"run_root={root}"]) == 0
    assert records(root)[0]["correlation_alive"] is None
    assert main([f"run_root={root}", "activations=500"]) == 0
    mirror, uniform = records(root)
    assert mirror["correlation_tokens"] == 500
    assert mirror["correlation_alive"] > 0.9 > uniform["correlation_alive"]
    text = (root / "stability" / "report.html").read_text()
    assert main([f"run_root={root}"]) == 0  # what was measured stays
    assert records(root)[0] == mirror
    assert "Mean correlation of the activations" in text
    config = root / "init=mirror" / "l0=4" / "seed=0" / "config.yaml"
    text = re.sub(r"(?m)^checksum: .*\n", "", config.read_text())
    config.write_text(text.replace("cache_fingerprint: ", "cache_fingerprint: gone"))
    shutil.rmtree(root / "stability" / "activity")
    capsys.readouterr()
    assert main([f"run_root={root}", "activations=500"]) == 0
    out = capsys.readouterr().out
    assert f"left out: {config.parent}: its activations are not in" in out
    assert records(root)[0]["correlation_alive"] is None
    assert main([f"run_root={root}", "activations=many"]) == 2
    assert "activations=many: use a number of held-out tokens" in capsys.readouterr().err


def test_correlations_are_those_of_numpy():
    generator = torch.Generator().manual_seed(0)
    a, b = JumpReLUSAE(6, 5), JumpReLUSAE(6, 5)
    with torch.no_grad():
        a.W_enc.copy_(torch.randn(6, 5, generator=generator))
        b.W_enc.copy_(a.W_enc[:, [1, 0, 2, 3, 4]] + 0.3 * torch.randn(6, 5, generator=generator))
        b.W_enc[:, 4] = 0
    x = torch.randn(300, 6, generator=generator)
    found, tokens = correlations(a, b, partners := np.array([1, 0, 2, 3, 4]), iter(x.split(70)))
    assert tokens == 300
    with torch.no_grad():
        z_a, z_b = a.encode(x).numpy(), b.encode(x).numpy()[:, partners]
    assert found[:4] == pytest.approx([np.corrcoef(z_a[:, i], z_b[:, i])[0, 1] for i in range(4)], abs=1e-5)
    assert np.isnan(found[4])
