"""The matcher: exact, signed, and near chance where the rows are unrelated."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from saemd.errors import UserError
from saemd.stability import match
from saemd.stability.matching import cosines as cosines_module
from saemd.stability.matching import hungarian
from saemd.stability.matching.cosines import Cosines
from saemd.stability.matching.hungarian import match_reference, random_floor
from tests.stability.dictionaries import INPUTS, KERNELS, whole
from tests.stability_fakes import rows


def test_a_known_permutation_comes_back_through_noise_and_scale():
    a_FD = rows(0, 300, 64)
    shuffle = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    b_FD = torch.empty_like(a_FD)
    b_FD[shuffle] = 3.0 * (a_FD + 0.4 * rows(2, 300, 64)) * torch.linspace(0.1, 9, 300)[:, None]
    found = match(a_FD, b_FD)
    assert np.array_equal(found.index, shuffle.numpy())
    expected = torch.nn.functional.cosine_similarity(a_FD, b_FD[shuffle]).numpy()
    np.testing.assert_allclose(found.cosine, expected, atol=1e-6)


def test_the_total_is_the_optimum_and_not_the_greedy_choice():
    for seed in range(20):
        a_FD, b_FD = rows(seed, 6, 3), rows(100 + seed, 6, 3)
        cosine_FF = (a_FD @ b_FD.T).numpy()
        best = max(sum(cosine_FF[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
        assert match(a_FD, b_FD).cosine.sum() == pytest.approx(best, abs=1e-5)


def test_blocks_do_not_matter(monkeypatch):
    a_FD, b_FD = rows(0, 50, 8), rows(1, 50, 8)
    whole = match(a_FD, b_FD)
    monkeypatch.setattr(cosines_module, "BLOCK_ROWS", 7)
    assert np.array_equal(match(a_FD, b_FD).index, whole.index)


def test_minus_u_is_not_u():
    half_FD = rows(0, 40, 32)
    mirrored_FD = torch.cat([half_FD, -half_FD])
    found = match(mirrored_FD, mirrored_FD.flip(0))
    assert np.array_equal(found.index, np.arange(80)[::-1])
    np.testing.assert_allclose(found.cosine, 1, atol=1e-6)
    flipped = match(half_FD, -half_FD)
    assert flipped.cosine.max() < 0.7  # every latent's own negative is there, at cosine -1, and none is taken for it
    assert not (flipped.index == np.arange(40)).any()


def test_any_float_type_and_numpy_and_zero_rows():
    a_FD = rows(0, 30, 16)
    a_FD[3] = 0
    exact = match(a_FD, a_FD)
    assert exact.cosine[3] == 0
    assert np.array_equal(match(a_FD.to(torch.bfloat16), a_FD.double().numpy()).index, exact.index)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_rows_of_any_size_have_a_direction(size: float):
    a_FD, b_FD = rows(0, 30, 16), rows(1, 30, 16)
    small_FD = a_FD.clone()
    small_FD[::2] *= size
    np.testing.assert_allclose(match(small_FD, b_FD).cosine, match(a_FD, b_FD).cosine, atol=1e-6)


def test_what_cannot_be_matched_is_refused():
    broken_FD = rows(0)
    broken_FD[5, 2] = float("nan")
    with pytest.raises(UserError, match="1 of 48 latents are NaN"):
        match(rows(1), broken_FD)
    with pytest.raises(ValueError, match="one shape"):
        match(rows(0), rows(0, 47))


def test_the_random_floor_lies_just_below_its_bound():
    """Matched at best with the nearest of F: sqrt(2 ln F / D) from above; the mean of each row's maximum is nearer."""
    n_latents, d_in = 600, 200
    floor = random_floor(n_latents, d_in)
    nearest = (rows(11, n_latents, d_in) @ rows(12, n_latents, d_in).T).max(dim=1).values.mean().item()
    assert 0.85 * nearest < floor < nearest < np.sqrt(2 * np.log(n_latents) / d_in)
    assert floor == random_floor(n_latents, d_in)
    assert floor != random_floor(n_latents, d_in, seed=1)


@pytest.mark.parametrize("n", [1, 2, 3, 40, 500])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_optimum_is_scipys(kernel: type[Cosines], kind: str, n: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hungarian, "fastest_first", lambda *given: iter([kernel(*given[:3])]))
    a_FD, b_FD = INPUTS[kind](n)
    found, reference = match(a_FD, b_FD), match_reference(a_FD, b_FD)
    assert np.array_equal(np.sort(found.index), np.arange(n))
    assert found.cosine.sum(dtype=np.float64) == pytest.approx(reference.cosine.sum(dtype=np.float64), abs=1e-6 * n)
    cosine_FF = whole(a_FD, b_FD)
    np.testing.assert_allclose(found.cosine, cosine_FF[np.arange(n), found.index], atol=1e-6)
