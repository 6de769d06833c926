"""Which way to compute cosines comes first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from saemd.stability import match
from saemd.stability.matching import hungarian, kernels
from saemd.stability.matching.cosines import Cosines, Dictionary
from saemd.stability.matching.kernels import fastest_first
from tests.stability.dictionaries import INPUTS
from tests.stability_fakes import rows


def order(given: tuple[Dictionary, Dictionary], pool: ThreadPoolExecutor, device: str | None = None) -> list[str]:
    return [type(way).__name__ for way in fastest_first(*given, pool, None if device is None else torch.device(device))]


@pytest.fixture
def given() -> tuple[Dictionary, Dictionary]:
    return hungarian.rows_of_one_shape(rows(0, 40), rows(1, 40))


def test_bytes_come_first_where_they_are_faster_and_float32_last(
    given: tuple[Dictionary, Dictionary], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kernels, "bytes_are_faster", lambda: True)
    assert order(given, pool) == ["Cosines"]
    monkeypatch.setattr(kernels, "SMALLEST", 2)
    assert order(given, pool, "cpu") == ["ByteCosines", "Cosines"]
    monkeypatch.setattr(kernels, "bytes_are_faster", lambda: False)
    assert order(given, pool, "cpu") == ["Cosines"]


def test_a_gpu_comes_before_the_cpu_if_its_memory_suffices(
    given: tuple[Dictionary, Dictionary], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    devices: list[torch.device] = []

    class Recorded(Cosines):
        def __init__(self, a: Dictionary, b: Dictionary, pool: ThreadPoolExecutor, device: torch.device) -> None:
            super().__init__(a, b, pool)
            devices.append(device)

    monkeypatch.setattr(kernels, "DeviceCosines", Recorded)
    monkeypatch.setattr(kernels, "SMALLEST", 2)
    monkeypatch.setattr(kernels, "bytes_are_faster", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 30, 1 << 33))
    assert order(given, pool) == ["Recorded", "Cosines"]
    assert order(given, pool, "cpu") == ["Cosines"]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 1 << 33))
    assert order(given, pool) == ["Cosines"]
    assert order(given, pool, "cuda:1") == ["Recorded", "Cosines"]
    assert devices == [torch.device("cuda"), torch.device("cuda:1")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_gives_the_same_matching():
    for kind in ("half, strong axes", "independent"):
        a_FD, b_FD = INPUTS[kind](3000)
        there, here = match(a_FD, b_FD, device="cuda"), match(a_FD, b_FD, device="cpu")
        assert np.array_equal(there.index, here.index)
        np.testing.assert_allclose(there.cosine, here.cosine, atol=1e-6)
