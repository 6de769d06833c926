"""Folders for the examples of a fuzz test, which pytest's `tmp_path` does not renew from example to example."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def emptied(tmp_path_factory: Any, name: str) -> Path:
    """An empty folder of this name, the same one for every example."""
    folder = Path(tmp_path_factory.getbasetemp()) / f"fuzz-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
