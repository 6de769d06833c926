"""The matcher: exact, signed, and near chance where there is nothing to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from experiments.matching.proof import certify, excess
from saemd.errors import UserError
from saemd.stability import match
from saemd.stability.matching import byte_cosines, hungarian, optimum, pricing
from saemd.stability.matching import cosines as cosines_module
from saemd.stability.matching.byte_cosines import ByteCosines, fastest_first
from saemd.stability.matching.candidates import Candidates, gather
from saemd.stability.matching.certificate import Assignment, NotProvenError, gap
from saemd.stability.matching.cosines import Cosines, FloatCosines
from saemd.stability.matching.hungarian import match_reference, random_floor
from saemd.stability.matching.pricing import Pricing
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


KERNELS = [FloatCosines, ByteCosines]


def shared_rows(n: int, share: float, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`share` of the rows return under noise in another order, the others are independent."""
    a_FD, b_FD = rows(0, n, 32), rows(1, n, 32)
    shared = round(share * n)
    b_FD[:shared] = a_FD[:shared] + noise * b_FD[:shared]
    return a_FD, b_FD[torch.randperm(n, generator=torch.Generator().manual_seed(2))]


def with_zeros(rows_FD: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    rows_FD[start:stop] = 0
    return rows_FD


def crowded(seed: int, n: int) -> torch.Tensor:
    """Few directions: what is best for a row is best for many."""
    return rows(seed, n, 4) @ rows(7, 4, 32) + 0.3 * rows(8, 1, 32)


INPUTS: dict[str, Callable[[int], tuple[torch.Tensor, torch.Tensor]]] = {
    "near-identical": lambda n: shared_rows(n, 1, 0.1),
    "half": lambda n: shared_rows(n, 0.55, 0.8),
    "independent": lambda n: shared_rows(n, 0, 0),
    "crowded": lambda n: (crowded(0, n), crowded(1, n)),
    "opposed": lambda n: (rows(0, n) + rows(9, 1), rows(1, n) - rows(9, 1)),
    "duplicates": lambda n: (rows(0, max(n // 8, 1)).repeat(9, 1)[:n], rows(1, max(n // 8, 1)).repeat(9, 1)[:n]),
    "one row": lambda n: (rows(0, 1).repeat(n, 1), rows(0, 1).repeat(n, 1)),
    "ties": lambda n: (rows(0, n, 6).sign(), rows(1, n, 6).sign()),
    "zero rows in one": lambda n: (with_zeros(rows(0, n), 0, n // 4), rows(1, n)),
    "zero rows in both": lambda n: (with_zeros(rows(0, n), 0, n // 4), with_zeros(rows(1, n), n // 2, n)),
    "only zeros": lambda n: (torch.zeros(n, 4), rows(1, n, 4)),
    "mirrored": lambda n: (torch.cat([rows(0, n), -rows(0, n)])[:n], torch.cat([rows(0, n), -rows(0, n)]).flip(0)[:n]),
}


def solved(
    a_FD: torch.Tensor, b_FD: torch.Tensor, kernel: type[FloatCosines], pool: ThreadPoolExecutor
) -> tuple[Assignment, Candidates, Cosines, np.ndarray]:
    """The assignment that `match` finds, what it is made from, and the whole matrix."""
    cosines = kernel(*hungarian.rows_of_one_shape(a_FD, b_FD), pool)
    candidates = gather(cosines.blocks(), len(a_FD), hungarian.KEPT, pool)
    return optimum.optimum(candidates, cosines), candidates, cosines, whole(a_FD, b_FD)


def whole(a_FD: torch.Tensor, b_FD: torch.Tensor) -> np.ndarray:
    a_FD, b_FD = (torch.nn.functional.normalize(rows_FD, dim=1) for rows_FD in (a_FD, b_FD))
    return (a_FD @ b_FD.T).numpy()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.mark.parametrize("n", [1, 2, 3, 40, 500])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_optimum_is_scipys(kernel: type[FloatCosines], kind: str, n: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hungarian, "fastest_first", lambda *given: iter([kernel(*given)]))
    a_FD, b_FD = INPUTS[kind](n)
    found, reference = match(a_FD, b_FD), match_reference(a_FD, b_FD)
    assert np.array_equal(np.sort(found.index), np.arange(n))
    assert found.cosine.sum(dtype=np.float64) == pytest.approx(reference.cosine.sum(dtype=np.float64), abs=1e-6 * n)
    cosine_FF = whole(a_FD, b_FD)
    np.testing.assert_allclose(found.cosine, cosine_FF[np.arange(n), found.index], atol=1e-6)


@pytest.mark.parametrize("kept", [2, 6, 32])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_few_candidates_are_enough_and_every_pair_is_proven(
    kernel: type[FloatCosines], kind: str, kept: int, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hungarian, "KEPT", kept)
    monkeypatch.setattr(optimum, "CORE", kept // 2)
    monkeypatch.setattr(optimum, "ROUNDS", 1000)
    for module in (cosines_module, byte_cosines):
        monkeypatch.setattr(module, "BLOCK_ROWS", 100)
    found, candidates, cosines, cosine_FF = solved(*INPUTS[kind](300), kernel, pool)
    best = match_reference(*INPUTS[kind](300)).cosine.sum(dtype=np.float64)
    assert cosine_FF[np.arange(300), found.index].sum(dtype=np.float64) == pytest.approx(best, abs=3e-5)
    assert excess(found, np.split(cosine_FF, [100])) <= 1e-6
    assert certify(found, candidates, cosines) == gap(found) <= 1e-9


@pytest.mark.parametrize("far", [-10, 0.01, 10])  # only the diagonal, those near a line's best, all
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_which_pairs_are_known_to_begin_with_changes_nothing(
    kernel: type[FloatCosines], kind: str, far: float, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(optimum, "FAR", far)
    found, candidates, cosines, cosine_FF = solved(*INPUTS[kind](300), kernel, pool)
    best = match_reference(*INPUTS[kind](300)).cosine.sum(dtype=np.float64)
    assert found.value.sum() == pytest.approx(best, abs=3e-5)
    np.testing.assert_allclose(found.value, cosine_FF[np.arange(300), found.index], atol=1e-6)
    assert certify(found, candidates, cosines) <= 1e-9


def test_of_near_identical_dictionaries_few_pairs_are_computed(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    computed: list[int] = []
    pairs = ByteCosines.pairs

    def counted(self: ByteCosines, row_E: np.ndarray, column_E: np.ndarray) -> np.ndarray:
        computed.append(len(row_E))
        return pairs(self, row_E, column_E)

    monkeypatch.setattr(ByteCosines, "pairs", counted)
    a_FD, b_FD = rows(0, 300, 512), rows(0, 300, 512) + 0.1 * rows(1, 300, 512)
    found, *_ = solved(a_FD, b_FD, ByteCosines, pool)
    assert np.array_equal(found.index, np.arange(300))
    assert sum(computed) < 10 * 300


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
    """All entries nearly half a step off, and in the direction of the other's row."""
    a_FD = torch.arange(64)[:, None] % 5 + torch.full((64, 2000), 3.49)
    a_FD[:, 0] = 127
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


def test_bytes_are_left_where_they_are_too_coarse(monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor):
    monkeypatch.setattr(byte_cosines, "SMALLEST", 2)
    monkeypatch.setattr(byte_cosines, "bytes_are_faster", lambda: True)
    given = hungarian.rows_of_one_shape(rows(0, 40), rows(1, 40))
    assert [type(kernel) for kernel in fastest_first(*given, pool)] == [ByteCosines, FloatCosines]
    spiky_FD = rows(0, 40)
    spiky_FD[:, 3] *= 1000
    given = hungarian.rows_of_one_shape(spiky_FD + 30 * rows(2, 40).sign(), rows(1, 40))
    monkeypatch.setattr(byte_cosines, "COARSEST", 0.001)
    assert [type(kernel) for kernel in fastest_first(*given, pool)] == [FloatCosines]
    monkeypatch.setattr(byte_cosines, "bytes_are_faster", lambda: False)
    assert [type(kernel) for kernel in fastest_first(*given, pool)] == [FloatCosines]


def test_where_bounds_prove_nothing_float32_goes_on(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder):
    a_FD, b_FD = INPUTS["half"](100)
    tried, real = [], optimum.optimum

    def failing(candidates: Candidates, cosines: Cosines) -> Assignment:
        tried.append(type(cosines))
        if not cosines.exact:
            raise NotProvenError("no proof")
        return real(candidates, cosines)

    monkeypatch.setattr(hungarian, "optimum", failing)
    monkeypatch.setattr(hungarian, "fastest_first", lambda *given: iter([ByteCosines(*given), FloatCosines(*given)]))
    assert np.array_equal(match(a_FD, b_FD).index, match_reference(a_FD, b_FD).index)
    assert tried == [ByteCosines, FloatCosines]
    assert not recwarn


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


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_not_optimal_is_not_proven(
    kernel: type[FloatCosines], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hungarian, "KEPT", 16)
    found, candidates, cosines, cosine_FF = solved(*INPUTS["half"](300), kernel, pool)
    certify(found, candidates, cosines)
    index_F = found.index.copy()
    index_F[[3, 4]] = index_F[[4, 3]]
    swapped = replace(found, index=index_F, value=cosine_FF[np.arange(300), index_F].astype(np.float64))
    with pytest.raises(NotProvenError, match="below its bound"):
        certify(swapped, candidates, cosines)
    with pytest.raises(NotProvenError, match="one to one"):
        certify(replace(found, index=np.zeros(300, dtype=np.int64)), candidates, cosines)
    with pytest.raises(NotProvenError, match="below its bound"):
        certify(replace(found, price=found.price + 1e-6), candidates, cosines)
    with pytest.raises(NotProvenError, match="worth more"):
        certify(replace(found, price=found.price - 1e-6), candidates, cosines)


@pytest.mark.parametrize(("i", "rank"), [(0, 0), (17, 40), (299, 150), (5, 299)])
@pytest.mark.parametrize("few", [0, 1024])  # by whole rows, by single pairs
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_pair_that_is_worth_more_is_found_wherever_it_is(
    kernel: type[FloatCosines], few: int, i: int, rank: int, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hungarian, "KEPT", 16)
    monkeypatch.setattr(pricing, "FEW", few)
    _, candidates, cosines, cosine_FF = solved(*INPUTS["half"](300), kernel, pool)
    j = int(np.argsort(-cosine_FF[i])[rank])
    gain_F, price_F = np.full(300, 9.0), np.full(300, 9.0)
    gain_F[i], price_F[j] = 0, float(cosine_FF[i, j]) - 1e-6
    found = Pricing(candidates, cosines).violations(gain_F, price_F)
    assert (i, j) in zip(found.row.tolist(), found.column.tolist(), strict=True)
    price_F[j] += 2e-6
    assert len(Pricing(candidates, cosines).violations(gain_F, price_F).row) == 0


def test_without_a_proof_scipy_answers_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optimum, "ROUNDS", 0)
    a_FD, b_FD = INPUTS["half"](100)
    with pytest.warns(UserWarning, match="scipy solves this one"):
        found = match(a_FD, b_FD)
    assert np.array_equal(found.index, match_reference(a_FD, b_FD).index)
