"""A saved model for the tests of this folder."""

from pathlib import Path

import pytest

from tests.lm.models import FOLDER
from tests.pipeline import save_model


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny Llama, saved as users have it, with a tokenizer."""
    return save_model(tmp_path / "model", FOLDER)
