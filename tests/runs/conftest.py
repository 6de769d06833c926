"""Fixtures of the tests on run directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.short_run import PLACE, SHORT


@pytest.fixture(scope="session")
def whole(world, tmp_path_factory) -> Path:
    """The run directory of a training that nothing disturbed."""
    from saemd.composition import compose_all
    from saemd.training.run import train

    root = tmp_path_factory.mktemp("whole")
    (config,) = compose_all([*world, *SHORT, f"run_root={root}"])
    train(config)
    return root / PLACE
