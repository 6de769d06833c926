"""What the tests share: one cache of downloads and converted models for all of them, kept between runs."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache_root() -> Path:
    """$SAEMD_CACHE, by default ~/.cache/saemd, as the entries use it."""
    return Path(os.environ.get("SAEMD_CACHE", Path.home() / ".cache" / "saemd"))
