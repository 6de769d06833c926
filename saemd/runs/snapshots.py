"""The snapshots of a run: its SAE along training, in `<run>/snapshots/tokens=<asked for>/`, each a `Run`."""

import re
from dataclasses import replace
from pathlib import Path

from saemd.config import Config, snapshot_steps
from saemd.errors import bad_value
from saemd.runs.files import METRICS
from saemd.runs.finished import Run, read_sae_files
from saemd.runs.folders import run_dir

_NAME = re.compile(r"tokens=(\d+)")


def snapshot_dir(run: Path, tokens: int) -> Path:
    return run / "snapshots" / f"tokens={tokens}"


def snapshots(run: Run) -> dict[int, Path]:
    """The folders of the run's complete snapshots by the tokens asked for; `metrics.json` has the true number."""
    found = {}
    whole = (
        run.path.parent.parent if run.path.parent.name == "snapshots" else run.path
    )  # `run` may be a snapshot itself
    for folder in (whole / "snapshots").glob("tokens=*"):
        if (name := _NAME.fullmatch(folder.name)) and (folder / METRICS).is_file():
            found[int(name[1])] = folder
    return dict(sorted(found.items()))


def read_snapshot(run: Run, folder: Path) -> Run:
    """The run as it stood at a snapshot: its own configuration, with the files of `folder`. Raises `UserError`."""
    return replace(run, path=folder, **read_sae_files(folder))


def refuse_missed(config: Config, step: int) -> None:
    """Raise `UserError` where the run has passed `step` and lacks a snapshot that is asked for before it."""
    for at, tokens in snapshot_steps(config).items():
        if at <= step > 0 and not (snapshot_dir(run_dir(config), tokens) / METRICS).is_file():
            what = f"{run_dir(config)} has trained beyond {tokens:,} tokens without keeping them"
            raise bad_value("snapshots", config.snapshots, f"{what}; leave it out, or train in another run_root")
