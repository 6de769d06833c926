"""The definitions, on examples small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saemd.runs import Weights, read_run, read_weights
from saemd.stability import Comparison, Match, compare
from saemd.stability.records import make_record
from saemd.stability.siblings import Pair
from tests.stability_fakes import fake_run


def three(enc: list[int], dec: list[int], cos_enc: list[float], cos_dec: list[float]) -> Comparison:
    return Comparison(
        enc=Match(np.array(enc), np.array(cos_enc, dtype=np.float32)),
        dec=Match(np.array(dec), np.array(cos_dec, dtype=np.float32)),
    )


# Latent 0: same partner (itself), both high. 1 and 2: decoder swaps them, the encoder does not.
EXAMPLE = three(enc=[0, 1, 2], dec=[0, 2, 1], cos_enc=[0.9, 0.8, 0.2], cos_dec=[0.8, 0.9, 0.4])


def test_summary_of_three_latents():
    assert EXAMPLE.summary(0.7) == {
        "mean_cos_enc": pytest.approx(1.9 / 3),
        "mean_cos_dec": pytest.approx(2.1 / 3),
        "same_match": pytest.approx(1 / 3),
        "shared": pytest.approx(1 / 3),  # latent 1 has both cosines above 0.7, but two partners
        "shared_cosines": pytest.approx(2 / 3),
        "identity_match": pytest.approx(1 / 3),
        "mean_cos_enc_same": pytest.approx(0.9),
        "mean_cos_dec_same": pytest.approx(0.8),
        "mean_cos_enc_other": pytest.approx(0.5),
        "mean_cos_dec_other": pytest.approx(0.65),
    }
    assert EXAMPLE.summary(0.85)["shared"] == 0
    swapped = three([1, 0, 2], [1, 0, 2], [0.9] * 3, [0.9] * 3).summary()
    assert swapped["same_match"] == swapped["shared"] == 1
    assert swapped["identity_match"] == pytest.approx(1 / 3)
    assert swapped["mean_cos_dec_other"] is None


def test_alive_in_both_asks_for_the_latent_and_for_both_its_partners():
    everyone = np.array([True, True, True])
    assert EXAMPLE.alive_in_both(everyone, everyone).all()
    assert EXAMPLE.alive_in_both(np.array([False, True, True]), everyone).tolist() == [False, True, True]
    # b's latent 2 is dead: it is the decoder partner of 1 and the encoder partner of 2.
    assert EXAMPLE.alive_in_both(everyone, np.array([True, True, False])).tolist() == [True, False, False]
    keep = EXAMPLE.alive_in_both(np.array([False, True, True]), everyone)
    assert EXAMPLE.summary(0.7, keep)["mean_cos_dec"] == pytest.approx(0.65)
    assert EXAMPLE.summary(0.7, np.zeros(3, dtype=bool))["mean_cos_dec"] is None


def test_compare_matches_encoder_columns_and_decoder_rows_apart():
    eye = torch.eye(3)
    a = Weights(W_enc=eye, W_dec=eye)
    b = Weights(W_enc=5 * eye[:, [1, 2, 0]], W_dec=eye[[2, 0, 1]])
    found = compare(a, b)
    assert found.enc.index.tolist() == [2, 0, 1]
    assert found.dec.index.tolist() == [1, 2, 0]
    assert not found.same.any()
    assert found.summary()["mean_cos_enc"] == pytest.approx(1)


def test_a_record_holds_drift_floor_and_start_for_all_and_for_the_living(tmp_path):
    eye = torch.eye(3)
    alive_b = np.array([True, True, False])
    runs = [
        read_run(fake_run(tmp_path, seed=24, start=eye, noise=0)),
        read_run(fake_run(tmp_path, seed=42, start=eye, noise=0, alive=alive_b)),
    ]
    for run, cosines in zip(runs, ([1.0, 0.8, 0.6], [0.5, 0.4, 0.3]), strict=True):
        object.__setattr__(run, "cos_dec_start", np.array(cosines))
    record = make_record(Pair(runs[0], runs[1]), EXAMPLE, floor=0.25, threshold=0.7)
    assert record["init"] == "uniform"
    assert record["l0"] == 40
    assert record["seeds"] == [24, 42]
    assert record["encoder"] == ["dual", "dual"]
    assert record["same_start_dec"] is True
    assert record["d_sae"] == 3
    assert record["alive"] == 1  # latent 0 alone: see the test above
    assert record["alive_each"] == [3, 2]
    assert record["achieved_l0"] == [pytest.approx(41.2)] * 2
    assert record["drift_dec"] == pytest.approx((2.4 + 1.2) / 6)
    assert record["drift_dec_alive"] == pytest.approx((1.0 + 0.5) / 2)
    assert record["apart_dec"] == pytest.approx((1.0 * 0.5 + 0.8 * 0.4 + 0.6 * 0.3) / 3)
    assert record["apart_dec_alive"] == pytest.approx(0.5)
    assert record["random_floor"] == record["random_floor_alive"] == 0.25
    assert record["mean_cos_dec_alive"] == pytest.approx(0.8)
    figures = {key for key in record if f"{key}_alive" in record}
    assert {"mean_cos_enc", "same_match", "shared", "identity_match", "drift_enc", "random_floor"} <= figures


def test_seeds_with_starts_of_their_own_have_no_value_for_moving_apart(tmp_path):
    runs = [read_run(fake_run(tmp_path, seed=seed)) for seed in (24, 42)]
    index = list(range(48))
    found = three(index, index, [0.5] * 48, [0.5] * 48)
    record = make_record(Pair(runs[0], runs[1]), found, floor=0.25, threshold=0.7)
    assert record["same_start_dec"] is False
    assert record["apart_dec"] is None


def test_what_two_runs_that_moved_apart_show_is_foretold(tmp_path):
    """Two runs that leave one start in unrelated directions are as alike as `apart_dec` says."""
    start = torch.nn.functional.normalize(torch.randn(200, 256, generator=torch.Generator().manual_seed(0)), dim=1)
    a, b = (read_run(fake_run(tmp_path, seed=seed, start=start, noise=0.4)) for seed in (24, 42))
    pair = Pair(a, b)
    found = compare(read_weights(pair.a), read_weights(pair.b))
    record = make_record(pair, found, floor=0.1, threshold=0.7)
    assert record["identity_match"] == 1
    assert record["mean_cos_dec"] == pytest.approx(record["apart_dec"], abs=0.01)
    assert record["apart_dec"] < record["drift_dec"] - 0.1
