"""What a run directory is: its path, its files, the order in which they are written, and what identifies a run.

    <run_root>/init=<label>/l0=<target>/<key>=<value>/…/seed=<seed>/

The parts between l0 and seed are the other keys that a sweep varies, or that are given a name with `folder.<key>=…`.
The files are written in this order: config.yaml, last.ckpt again and again, and at the end the SAE, latents.npz and
metrics.json. So a folder with metrics.json holds a finished run, and one without it goes on from last.ckpt when its
command is given again. A snapshot has the same files as the end, in snapshots/tokens=<asked for>/. If run_root is a
URL, each file is uploaded as soon as it is complete (`saemd.remote`).
"""

from saemd.runs.files import (
    CHECKPOINT,
    CONFIG,
    LATENTS,
    METRICS,
    SAE_CONFIG,
    WEIGHTS,
    HeldError,
    held,
    holder,
    read_config,
    read_metrics,
    refuse_foreign,
    refuse_held,
    write_config,
)  # fmt: skip
from saemd.runs.finished import Run, Weights, find_runs, read_run, read_weights
from saemd.runs.folders import find, is_among_runs, run_dir, run_name
from saemd.runs.identity import SEED_KEYS, differences, flatten, identify, refuse_another
from saemd.runs.remote import fetch_run, fetch_runs
from saemd.runs.snapshots import read_snapshot, refuse_missed, snapshot_dir, snapshots

__all__ = [
    "CHECKPOINT", "CONFIG", "LATENTS", "METRICS", "SAE_CONFIG", "SEED_KEYS", "WEIGHTS", "HeldError", "Run", "Weights",
    "differences", "fetch_run", "fetch_runs", "find", "find_runs", "flatten", "held", "holder", "identify",
    "is_among_runs", "read_config", "read_metrics", "read_run", "read_snapshot", "read_weights", "refuse_another",
    "refuse_foreign", "refuse_held", "refuse_missed", "run_dir", "run_name", "snapshot_dir", "snapshots",
    "write_config",
]  # fmt: skip
