"""What wandb keeps of an offline run, read back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]


def records(folder: Path) -> list[Record]:
    """An offline run's records up to its end. wandb's service may write them a moment after `finish` came back."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [Record.FromString(entry) for entry in log_entries(next(folder.glob("run-*.wandb")).read_bytes())]
        if of_kind(found, "exit"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{folder}: this run never ended")


def log_entries(data: bytes) -> Iterator[bytes]:
    """Whole entries of a LevelDB log: blocks of 32 KiB, headers of 7 bytes, entries split where a block ends."""
    at, partial = 7, b""  # behind wandb's own header
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if len(data) < at + 7 + length:  # still being written
            return
        partial += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield partial
            partial = b""


def offline_run(run_dir: Path, which: int = 0) -> list[Record]:
    folders = sorted((run_dir / "wandb").glob("offline-run-*"))
    return records(folders[which])


def of_kind(found: list[Record], kind: str) -> list:
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]


def logged(found: list[Record]) -> list[dict]:
    """History rows."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for row in of_kind(found, "history")
    ]


def summary(found: list[Record]) -> dict:
    updates = [item for record in of_kind(found, "summary") for item in record.update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
