"""Few candidates are enough, and the proof on all pairs accepts the best matching alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from experiments.matching.proof import certify, excess
from saemd.stability import match
from saemd.stability.matching import byte_cosines, hungarian, optimum, pricing
from saemd.stability.matching import cosines as cosines_module
from saemd.stability.matching.byte_cosines import ByteCosines
from saemd.stability.matching.candidates import Candidates
from saemd.stability.matching.certificate import Assignment, NotProvenError, gap
from saemd.stability.matching.cosines import Cosines
from saemd.stability.matching.hungarian import match_reference
from saemd.stability.matching.pricing import Pricing
from tests.stability.dictionaries import INPUTS, KERNELS, solved, strong_axes
from tests.stability_fakes import rows


@pytest.mark.parametrize("kept", [2, 6, 32])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_few_candidates_are_enough_and_every_pair_is_proven(
    kernel: type[Cosines], kind: str, kept: int, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
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
    kernel: type[Cosines], kind: str, far: float, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
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


def test_where_bounds_prove_nothing_float32_goes_on(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder):
    a_FD, b_FD = INPUTS["half"](100)
    tried, real = [], optimum.optimum

    def failing(candidates: Candidates, cosines: Cosines) -> Assignment:
        tried.append(type(cosines))
        if not cosines.exact:
            raise NotProvenError("no proof")
        return real(candidates, cosines)

    monkeypatch.setattr(hungarian, "optimum", failing)
    monkeypatch.setattr(hungarian, "fastest_first", lambda *given: iter([ByteCosines(*given[:3]), Cosines(*given[:3])]))
    assert np.array_equal(match(a_FD, b_FD).index, match_reference(a_FD, b_FD).index)
    assert tried == [ByteCosines, Cosines]
    assert not recwarn


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_not_optimal_is_not_proven(
    kernel: type[Cosines], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
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
    kernel: type[Cosines], few: int, i: int, rank: int, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_prices_of_near_identical_dictionaries_are_right_at_once(
    kernel: type[Cosines], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(optimum, "ROUNDS", 1)
    a_FD, b_FD = strong_axes(rows(0, 2000, 128), rows(0, 2000, 128) + 0.1 * rows(1, 2000, 128))
    found, *_ = solved(a_FD, b_FD, kernel, pool)
    assert np.array_equal(found.index, np.arange(2000))
