"""Runs in an object store, whose finished files this machine fetches before they are read."""

from __future__ import annotations

from pathlib import Path

from saemd.remote.mirror import sync
from saemd.remote.store import check_store
from saemd.remote.urls import RUN_ROOT, upload_url
from saemd.runs.files import CHECKPOINT


def fetch_runs(folder: Path) -> None:
    """Bring a run root, or a run, in line with its store, but for checkpoints and wandb's files that are not here yet.

    A folder of this machine is left as it is. Raises `UserError` where the store cannot be read.
    """
    if url := upload_url(folder):
        check_store(RUN_ROOT, url, writes=False)
        sync(folder, lambda path: path.name != CHECKPOINT and "wandb" not in path.parts)


def fetch_run(folder: Path) -> None:
    """As `fetch_runs` for one run that is to be gone on with: its checkpoint too."""
    sync(folder, lambda path: "wandb" not in path.parts)
