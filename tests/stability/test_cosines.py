"""Cosines, their upper bounds, and the lists of the largest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from saemd.stability.matching import device_cosines, hungarian
from saemd.stability.matching.byte_cosines import ByteCosines
from saemd.stability.matching.candidates import gather
from saemd.stability.matching.device_cosines import TF32, DeviceCosines
from saemd.stability.matching.rotation import MOVED, rotated
from tests.stability.dictionaries import INPUTS, KERNELS, whole
from tests.stability_fakes import rows


@pytest.mark.parametrize("n", [1, 5, 300])
@pytest.mark.parametrize("kind", INPUTS)
def test_lists_from_a_device_hold_the_largest_and_bound_the_others(
    kind: str, n: int, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(device_cosines, "BLOCK_ROWS", 7)
    a_FD, b_FD = INPUTS[kind](n)
    candidates = DeviceCosines(*hungarian.rows_of_one_shape(100 * a_FD, 1e-3 * b_FD), pool).candidates(20)
    exact_FF = whole(a_FD.double(), b_FD.double())
    np.testing.assert_allclose(candidates.diagonal, exact_FF.diagonal() + TF32, atol=1e-6)
    for lists, lines_FF in ((candidates.rows, exact_FF), (candidates.columns, exact_FF.T)):
        assert (lists.count == min(29, n)).all()
        for i in range(n):
            np.testing.assert_allclose(lists.value[i], lines_FF[i, lists.index[i]] + TF32, atol=1e-6)
            assert np.delete(lines_FF[i], lists.index[i]).max(initial=-1) < lists.floor[i] or n <= 29


@pytest.mark.parametrize("n", [1, 5, 300])
@pytest.mark.parametrize("kind", INPUTS)
def test_bounds_lie_above_the_cosines_and_near_them(kind: str, n: int, pool: ThreadPoolExecutor):
    a_FD, b_FD = INPUTS[kind](n)
    cosines = ByteCosines(*hungarian.rows_of_one_shape(100 * a_FD, 1e-3 * b_FD), pool)
    above_FF = np.concatenate([block_BF.copy() for block_BF in cosines.blocks()]) - whole(a_FD.double(), b_FD.double())
    assert above_FF.min() >= 0
    assert above_FF.max() < 0.05
    assert above_FF.mean() < 1.5 * cosines.mean_error + 1e-5


def test_bounds_hold_where_rounding_is_worst(pool: ThreadPoolExecutor):
    """All entries of the rotated rows nearly half a step off, and in the direction of the other's row."""
    steps_FD = torch.arange(64)[:, None] % 5 + torch.full((64, 2025), 3.49)
    steps_FD[:, 0] = 127
    a_FD = steps_FD @ rotated(torch.eye(2025)).T
    cosines = ByteCosines(*hungarian.rows_of_one_shape(a_FD, a_FD), pool)
    above_FF = next(cosines.blocks()) - whole(a_FD.double(), a_FD.double())
    assert 0 <= above_FF.min() < 0.2 * cosines.mean_error  # no much smaller bound would have done


def test_single_pairs_and_whole_rows_are_the_cosines(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("saemd.stability.matching.cosines.CACHED", 1000)  # stretches of seven columns
    a_FD, b_FD = 3 * rows(0, 90, 32), 0.1 * rows(1, 90, 32)
    row_E, column_E = np.random.default_rng(0).integers(0, 90, (2, 500)).astype(np.int32)
    for kernel in KERNELS:
        cosines, expected_FF = kernel(*hungarian.rows_of_one_shape(a_FD, b_FD), pool), whole(a_FD, b_FD)
        np.testing.assert_allclose(cosines.pairs(row_E, column_E), expected_FF[row_E, column_E], atol=1e-6)
        assert np.array_equal(cosines.pairs(row_E[::-1], column_E[::-1])[::-1], cosines.pairs(row_E, column_E))
        np.testing.assert_allclose(cosines.rows(row_E[:7]), expected_FF[row_E[:7]], atol=1e-6)


@pytest.mark.parametrize("d_in", [1, 2, 7, 48, 50, 576])
def test_a_rotation_changes_no_cosine(d_in: int):
    a_FD, b_FD = rows(0, 40, d_in), rows(1, 40, d_in)
    moved_FF = rotated(a_FD).double() @ rotated(b_FD).double().T - a_FD.double() @ b_FD.double().T
    assert moved_FF.abs().max() < MOVED / 10
    assert torch.equal(rotated(a_FD[7:9]), rotated(a_FD)[7:9])


@pytest.mark.parametrize("power", [-0.25, -0.5, -1])
def test_strong_axes_leave_the_bounds_as_near_as_without_them(power: float, pool: ThreadPoolExecutor):
    isotropic = hungarian.rows_of_one_shape(rows(0, 100, 576), rows(1, 100, 576))
    axes_D = torch.arange(1.0, 577) ** power
    strong = hungarian.rows_of_one_shape(rows(0, 100, 576) * axes_D, rows(1, 100, 576) * axes_D)
    assert ByteCosines(*strong, pool).mean_error < 1.05 * ByteCosines(*isotropic, pool).mean_error


def test_lists_hold_the_largest_and_bound_the_others(pool: ThreadPoolExecutor):
    cosine_FF = np.random.default_rng(0).standard_normal((300, 300), dtype=np.float32)
    candidates = gather(np.split(cosine_FF, [7, 150]), 300, 20, pool)
    for lists, lines_FF in ((candidates.rows, cosine_FF), (candidates.columns, cosine_FF.T)):
        for i in range(300):
            held = lists.index[i, : lists.count[i]]
            assert np.array_equal(lines_FF[i, held], lists.value[i, : lists.count[i]])
            assert np.delete(lines_FF[i], held).max() <= lists.floor[i] <= np.sort(lines_FF[i])[-20]
    row_E, column_E, value_E = candidates.rows.largest(5, pool)
    assert np.array_equal(np.bincount(row_E), np.full(300, 5))
    np.testing.assert_array_equal(cosine_FF[row_E, column_E], value_E)
    assert (value_E.reshape(300, 5).min(axis=1) == np.sort(cosine_FF)[:, -5]).all()


@pytest.mark.parametrize("tail", [1, 3])  # normal entries, and ones of which few are far larger than the others
def test_first_floors_fill_the_lists(tail: int, pool: ThreadPoolExecutor):
    entry_FF = np.random.default_rng(0).standard_normal((2000, 2000), dtype=np.float32) ** tail
    spread_F = np.random.default_rng(1).uniform(1, 2, 2000).astype(np.float32)
    spread_FF = entry_FF * spread_F[:, None] + np.float32(7)
    for matrix_FF in (spread_FF, np.ascontiguousarray(spread_FF.T)):  # rows, then columns of another spread each
        candidates = gather(np.split(matrix_FF, [600]), 2000, 40, pool)
        assert candidates.rows.count.min() >= 40
        assert candidates.columns.count.min() >= 10
        for lists, lines_FF in ((candidates.rows, matrix_FF), (candidates.columns, matrix_FF.T)):
            assert 40 < lists.count.mean() < 70
            for i in range(0, 2000, 50):
                held = lists.index[i, : lists.count[i]]
                assert np.array_equal(lines_FF[i, held], lists.value[i, : lists.count[i]])
                assert np.delete(lines_FF[i], held).max() <= lists.floor[i] <= lines_FF[i, held].min()
