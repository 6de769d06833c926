"""Measures beyond matched cosines, on dictionaries whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from saemd.runs import Weights, read_run
from saemd.stability import Comparison, Match, compare, compare_root
from saemd.stability.measures import by_ablation, by_rate, learned, subspace
from saemd.stability.starts import digest, start_of
from tests.stability_fakes import fake_run, fake_sweep, rows


def test_what_was_learned_leaves_a_shared_start_out():
    start = Weights(rows(0, 30, 64).T, rows(0, 30, 64))
    same_way, own_ways = rows(1, 30, 64), [rows(seed, 30, 64) for seed in (2, 3)]
    alike = [Weights((start.W_dec + 0.1 * same_way).T, start.W_dec + 0.1 * same_way) for _ in range(2)]
    unlike = [Weights((start.W_dec + 0.1 * way).T, start.W_dec + 0.1 * way) for way in own_ways]
    for ends, expected in ((alike, 1), (unlike, 0)):
        found = learned((ends[0], ends[1]), (start, start), compare(*ends))
        for name in ("learned_dec", "learned_enc"):
            assert found[name].mean() == pytest.approx(expected, abs=0.05), name
    still = learned((start, start), (start, start), compare(start, start))
    assert not still["learned_dec"].any()


def test_partners_keep_their_own_starts():
    """b is a with its latents in another order."""
    start, end = rows(0, 20, 32), rows(1, 20, 32)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    a, start_a = Weights(end.T, end), Weights(start.T, start)
    b, start_b = Weights(end[order].T, end[order]), Weights(start[order].T, start[order])
    found = learned((a, b), (start_a, start_b), compare(a, b))
    assert found["learned_dec"] == pytest.approx(np.ones(20), abs=1e-5)


def test_a_subspace_may_return_where_no_direction_does():
    basis, _ = torch.linalg.qr(rows(5, 64, 64).T)
    within = [rows(seed, 300, 8) @ basis[:, :8].T for seed in (1, 2)]
    apart = rows(3, 300, 8) @ basis[:, 8:16].T
    everywhere = [rows(seed, 4000, 64) for seed in (6, 7)]
    found = subspace(*within)
    assert found["subspace_dimensions"] == 4
    assert (found["subspace_overlap"] or 0) > 0.4  # half of a round cloud's 8 directions, each side's own half
    assert found["subspace_floor"] == 4 / 64
    assert subspace(within[0], apart)["subspace_overlap"] == pytest.approx(0, abs=1e-9)
    assert subspace(within[0], within[0])["subspace_overlap"] == pytest.approx(1)
    chance = subspace(*everywhere)
    assert chance["subspace_overlap"] == pytest.approx(chance["subspace_floor"], abs=0.05)
    assert set(subspace(within[0][:0], apart).values()) == {None}


def test_rates_of_both_runs_are_binned(tmp_path):
    a, b = (read_run(fake_run(tmp_path, seed=seed, start=torch.eye(4))) for seed in (24, 42))
    for run, rate in zip((a, b), ([0, 0.5, 0.5, 0.002], [0.5, 0, 0.002, 0.002]), strict=True):
        object.__setattr__(run, "fire_rate", np.array(rate, dtype=np.float32))
    index = np.array([1, 0, 2, 3])
    cosine = np.array([0.9, 0.8, 0.1, 0.9], dtype=np.float32)
    bins = by_rate(a, b, Comparison(Match(index, cosine), Match(index, cosine)), 0.7)
    assert [(row["low"], row["high"], row["latents"]) for row in bins] == [(0, 0, 2), (1e-3, 1e-2, 3), (0.1, None, 3)]
    dead, rare, often = bins
    assert dead["shared"] == 1  # latent 0 of a, and its partner in b
    assert dead["mean_cos_dec"] == pytest.approx(0.9)
    assert rare["shared"] == pytest.approx(2 / 3)  # latent 3 of both, and latent 2 of b, which is not shared
    assert often["mean_cos_enc"] == pytest.approx((0.8 + 0.1 + 0.8) / 3)  # latents 1 and 2 of a, latent 0 of b


def test_latents_are_weighted_by_what_they_add_to_the_fvu(tmp_path):
    a, b = (read_run(fake_run(tmp_path, seed=seed, start=torch.eye(4))) for seed in (24, 42))
    for run, added in zip((a, b), ([0.1, 0.4, 0.2, 0.0], [0.3, 0.1, -0.01, 0.0]), strict=True):
        object.__setattr__(run, "ablation_fvu", np.array(added, dtype=np.float32))
    index = np.array([1, 0, 2, 3])
    cosine = np.array([0.9, 0.8, 0.1, 0.9], dtype=np.float32)
    found = by_ablation(a, b, comparison := Comparison(Match(index, cosine), Match(index, cosine)), 0.7)
    assert found["shared_ablation"] == pytest.approx((0.1 + 0.4 + 0.3 + 0.1) / 1.1)
    first, *_, last = found["by_ablation"]
    assert first["latents"] == 2
    assert first["ablation_fvu"] == pytest.approx(0.35)  # latent 1 of a, latent 0 of b
    assert first["shared"] == 1
    assert first["mean_cos_dec"] == pytest.approx(0.8)  # both are that pair
    assert last["shared"] == 1  # latent 3 of both
    object.__setattr__(b, "ablation_fvu", np.full(4, np.nan, dtype=np.float32))
    assert by_ablation(a, b, comparison, 0.7) == {"shared_ablation": None, "by_ablation": []}


def test_a_run_of_an_earlier_version_has_no_ablation(tmp_path):
    for seed in (24, 42):
        path = fake_run(tmp_path, seed=seed) / "latents.npz"
        latents = {name: array for name, array in np.load(path).items() if name != "ablation_fvu"}
        np.savez(path, **latents)
    (record,) = compare_root(tmp_path)
    assert record["by_ablation"] == []
    assert record["shared_ablation"] is None
    assert record["by_rate"]


def test_a_start_that_its_seed_draws_is_drawn_again(tmp_path):
    W_dec = torch.empty(48, 16)
    torch.nn.init.kaiming_uniform_(W_dec, generator=torch.Generator().manual_seed(24))
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    init = {"name": "uniform", "label": "uniform", "encoder": "tied"}
    path = fake_run(tmp_path, seed=24, start=W_dec, config={"init": init})
    run = read_run(path)
    run.saved["start"] = {"W_dec": digest(W_dec), "W_enc": digest(W_dec.T)}
    found = start_of(run)
    assert found is not None
    assert torch.equal(found.W_dec, W_dec)
    run.saved["start"] = {"W_dec": "of another version", "W_enc": digest(W_dec.T)}
    assert start_of(run) is None
    for config in ({"init": {**init, "name": "mirror"}}, {"init": {**init, "odd": [1]}}, {"init_seed": None}):
        assert start_of(read_run(fake_run(tmp_path, seed=24, config=config))) is None


def test_only_pairs_that_changed_are_measured_again(tmp_path, capsys):
    fake_sweep(tmp_path, targets=(40,), snapshots=(0,))
    first = compare_root(tmp_path)
    files = sorted((tmp_path / "stability" / "measures").iterdir())
    assert len(files) == 2
    times = [path.stat().st_mtime_ns for path in files]
    assert compare_root(tmp_path) == first
    assert times == [path.stat().st_mtime_ns for path in files]
    files[0].write_text("{")
    assert compare_root(tmp_path) == first
    assert str(files[0]) in capsys.readouterr().out
    (lax, _) = compare_root(tmp_path, shared_threshold=0.05)
    assert lax["subspace_dimensions"] != first[0]["subspace_dimensions"]
    fake_run(tmp_path, "mirror", 40, 42, start=rows(5), noise=0.9, snapshots=(0,))
    assert [a["learned_dec"] == b["learned_dec"] for a, b in zip(compare_root(tmp_path), first, strict=True)] == [
        False, True
    ]  # fmt: skip


def test_snapshots_are_compared_at_equal_tokens(tmp_path, capsys):
    tokens = (0, 250_000, 1_000_000)
    fake_sweep(tmp_path, targets=(40,), snapshots=tokens)
    for seed in (24, 42):
        (tmp_path / "init=mirror" / "l0=40" / f"seed={seed}" / "snapshots" / "tokens=notes").mkdir()
    broken = tmp_path / "init=uniform" / "l0=40" / "seed=24" / "snapshots" / "tokens=250000" / "latents.npz"
    broken.unlink()
    finals = compare_root(tmp_path)
    assert f"run_dir={broken.parent}: cannot be read" in capsys.readouterr().out
    records = json.loads((tmp_path / "stability" / "snapshots.json").read_text())
    assert [(r["init"], r["tokens"]) for r in records] == [
        ("mirror", 0), ("uniform", 0), ("mirror", 250_000), ("mirror", 1_000_000), ("uniform", 1_000_000)
    ]  # fmt: skip
    mirror = [r for r in records if r["init"] == "mirror"]
    assert mirror[0]["shared"] == 1
    assert mirror[0]["shared"] >= mirror[1]["mean_cos_dec"] > mirror[2]["mean_cos_dec"]
    assert mirror[0]["learned_dec"] is None
    assert mirror[2]["learned_dec"] < mirror[2]["mean_cos_dec"]
    for name in ("mean_cos_dec", "shared", "learned_dec", "untrained_shared"):
        assert mirror[2][name] == pytest.approx(finals[0][name])
    untrained = next(r for r in records if r["init"] == "uniform" and r["tokens"] == 0)
    assert finals[1]["untrained_mean_cos_dec"] == pytest.approx(untrained["mean_cos_dec"])
    assert finals[0]["untrained_shared"] == 1
    assert [r["seeds"] for r in finals] == [[24, 42]] * 2  # stability.json has final runs alone
