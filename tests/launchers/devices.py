"""A worker process that takes one of two GPUs, for a process that is forked from one with torch alone."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from saemd.launchers.by_joblib import take_device


def hold_device(folder: Path, connection: Connection) -> None:
    """Take a device for two tasks, one after the other, say which, and hold it until the process is killed."""
    assert not torch.cuda.is_initialized()
    for _ in range(2):
        take_device(folder, 3, ["4", "7"])
    connection.send(os.environ["CUDA_VISIBLE_DEVICES"])
    connection.recv()
