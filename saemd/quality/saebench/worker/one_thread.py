"""Logistic regressions on one thread.

A probe has a thousand rows: threads wait for each other longer than they work, even more so beside another process.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController

from saemd.quality.saebench.worker.replaced import replaced


@contextmanager
def fits_on_one_thread() -> Iterator[None]:
    """Within, scikit-learn's `LogisticRegression.fit` uses one thread; nothing else changes."""
    fit, pools = LogisticRegression.fit, ThreadpoolController()

    def fit_on_one_thread(self: LogisticRegression, *arguments: Any, **named: Any) -> LogisticRegression:
        with pools.limit(limits=1):
            return fit(self, *arguments, **named)

    with replaced(LogisticRegression, fit=fit_on_one_thread):
        yield
