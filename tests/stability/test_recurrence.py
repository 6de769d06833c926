"""Latents that return in several seeds, and figures summed up over pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from saemd.runs import read_run
from saemd.stability import Comparison, Match, compare_root
from saemd.stability.cells import cells, spread
from saemd.stability.consensus import clusters_by_size
from saemd.stability.recurrence import distribution, recurrence
from saemd.stability.siblings import Pair
from tests.stability_fakes import F, fake_run, fake_sweep, rows


def links(indices: list[int], returns: list[bool]) -> Comparison:
    index, cosine = np.array(indices), np.where(returns, 0.9, 0.3).astype(np.float32)
    return Comparison(Match(index, cosine), Match(index, cosine))


@pytest.fixture
def found(tmp_path):
    """Three runs of three latents. Latent 0 of a returns in b (1) and c (2), and these two in each other."""
    a, b, c = (read_run(fake_run(tmp_path, seed=seed, start=rows(seed, 3, 4))) for seed in (1, 2, 3))
    return recurrence(
        [
            (Pair(a, b), links([1, 0, 2], [True, False, True])),
            (Pair(a, c), links([2, 1, 0], [True, False, False])),
            (Pair(b, c), links([0, 2, 1], [False, True, False])),
        ],
        0.7,
    )


def test_returns_are_counted_in_both_runs_of_a_pair(found):
    assert found.returns.tolist() == [[2, 0, 1], [0, 2, 1], [0, 0, 2]]
    assert found.compared.tolist() == [2, 2, 2]
    shares = distribution(found)
    assert shares["share_by_count"] == [pytest.approx(4 / 9), pytest.approx(2 / 9), pytest.approx(3 / 9)]
    assert (shares["in_all"], shares["in_none"]) == (pytest.approx(3 / 9), pytest.approx(4 / 9))
    assert shares["in_half"] == pytest.approx(5 / 9)
    first = np.zeros((3, 3), dtype=bool)
    assert distribution(found, first)["in_all"] is None
    first[0, 0] = True
    assert distribution(found, first)["in_all"] == 1


def test_clusters_join_what_returns(found):
    clusters = clusters_by_size(found, np.zeros(found.returns.shape))
    assert clusters[0].tolist() == [0, 3 + 1, 6 + 2]  # latent i of run s is s · F + i
    assert clusters[1].tolist() == [2, 3 + 2]
    assert [len(cluster) for cluster in clusters] == [3, 2, 1, 1, 1, 1]


def test_recurrence_of_a_run_root(tmp_path):
    fake_sweep(tmp_path, targets=(40,), seeds=(1, 2, 3, 4))
    compare_root(tmp_path, shared_threshold=0.3)
    mirror, uniform = json.loads((tmp_path / "stability" / "recurrence.json").read_text())
    assert (mirror["label"], mirror["runs"], len(mirror["share_by_count"])) == ("mirror", 4, 4)
    assert mirror["in_all"] > uniform["in_all"]
    with np.load(tmp_path / "stability" / "recurrence" / "mirror_l0=40.npz") as file:
        assert file["returns"].shape == file["alive"].shape == (4, F)
        assert file["runs"].tolist() == [f"init=mirror/l0=40/seed={seed}" for seed in (1, 2, 3, 4)]
        assert (file["returns"] == 3).mean() == pytest.approx(mirror["in_all"])


def record(seeds: list[int], shared: float, **more) -> dict:
    return {
        "init": "uniform", "l0": 40, "seeds": seeds, "shared": shared, "fvu": [0.1, 0.2], "achieved_l0": [40, 41],
        "same_start_dec": False, "same_start_enc": False, "alive": 10, "d_sae": 20, **more,
    }  # fmt: skip


def test_intervals_come_from_resampled_seeds():
    """Seed 1 agrees with nobody: with few seeds the interval must hold what its absence would give."""
    records = [record([a, b], 0.1 if a == 1 else 0.9) for a in range(1, 6) for b in range(a + 1, 6)]
    (cell,) = cells(records)
    assert (cell["pairs"], cell["seeds"]) == (10, 5)
    assert cell["shared"]["mean"] == pytest.approx(0.58)
    assert cell["shared"]["low"] < 0.25
    assert cell["shared"]["high"] == pytest.approx(0.9)
    over_pairs = np.random.default_rng(0).choice([r["shared"] for r in records], (2000, 10)).mean(axis=1)
    assert cell["shared"]["high"] - cell["shared"]["low"] > 1.2 * np.ptp(np.percentile(over_pairs, [2.5, 97.5]))


def test_one_pair_has_no_interval():
    (cell,) = cells([record([1, 2], 0.4)])
    assert cell["shared"] == {"mean": 0.4, "std": None, "low": None, "high": None}
    assert cell["fvu"] == pytest.approx(0.15)


def test_cells_keep_starts_targets_and_tokens_apart():
    records = [record([1, 2], 0.4), record([1, 2], 0.5, tokens=7), record([1, 2], 0.6, init="mirror")]
    assert [cell["shared"]["mean"] for cell in cells(records)] == [0.4, 0.5, 0.6]
    halves = [record([1, 1], value, folder={"init_seed": ["1", "2"]}) for value in (0.2, 0.4)]
    (cell,) = cells(halves)
    assert cell["seeds"] == 2  # seed 1 with two starts


def test_a_missing_figure_is_left_out():
    missing = spread(np.array([0.2, np.nan, 0.4]), np.ones((5, 3)))
    assert missing["mean"] == pytest.approx(0.3)


def test_a_relative_run_root(tmp_path, monkeypatch):
    """As commands have it by default."""
    fake_sweep(tmp_path / "runs", targets=(40,), seeds=(1, 2, 3))
    monkeypatch.chdir(tmp_path)
    compare_root("runs", shared_threshold=0.3)
    (file, *_) = sorted((tmp_path / "runs" / "stability" / "recurrence").glob("*.npz"))
    assert np.load(file)["runs"][0] == "init=mirror/l0=40/seed=1"
