"""Fixtures of the comparison's tests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def blank_figures(monkeypatch):
    """Every figure is drawn as an empty one: what figures show is for tests/report."""
    from saemd.report.style import new_figure

    for name in (
        "figure2.pair_figure",
        "figure2.grid_figure",
        "summary.summary_figure",
        "rates.rates_figure",
        "course.course_figure",
        "recurrence.recurrence_figure",
    ):
        monkeypatch.setattr(f"saemd.report.{name}", lambda *_, **__: new_figure(1, 1))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads
