"""One record per SAE and score: what `<run>/quality/<score>.json` holds, and the rows of `quality.json`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from saemd.files import DamagedFileError, read_json, write_json
from saemd.quality.bench import Bench
from saemd.quality.score import Outcome, Score, Subject, fingerprint

Record = dict[str, Any]

_NUMBER, _NONE = (int, float), type(None)
_SHOWN = {
    "init": str,
    "l0": _NUMBER,
    "achieved_l0": (*_NUMBER, _NONE),
    "seed": (int, _NONE),
    "score": str,
    "title": str,
    "status": str,
    "reason": (str, _NONE),
    "value": (*_NUMBER, _NONE),
    "std": (*_NUMBER, _NONE),
    "values": dict,
    "data": dict,
}
_KEPT = {**_SHOWN, "fingerprint": str, "weights": str}


def record_path(subject: Subject, score: Score) -> Path:
    return subject.folder / "quality" / f"{score.name}.json"


def make_record(subject: Subject, score: Score, settings: Any, bench: Bench, outcome: Outcome) -> Record:
    """The outcome with all that it depends on. `l0` is the target; `achieved_l0` was measured on held-out text."""
    found = dataclasses.asdict(outcome)
    l0 = found["values"].get("l0") if subject.measured_l0 is None else subject.measured_l0
    weights = subject.digest()
    return {
        "init": subject.init,
        "l0": int(subject.l0) if subject.l0 == int(subject.l0) else subject.l0,
        "achieved_l0": l0,
        "seed": subject.seed,
        "score": score.name,
        "score_version": score.version,
        "title": score.title,
        **{key: found[key] for key in ("status", "reason", "value", "std", "repetitions", "spread", "values")},
        "details": found["details"],
        "settings": dataclasses.asdict(settings),
        "data": found["data"],
        "versions": {**bench.versions, **found["versions"]},
        "seconds": found["seconds"],
        "weights": weights,
        "fingerprint": fingerprint(score, settings, bench.fingerprint, weights),
    }


def write_record(subject: Subject, score: Score, record: Record) -> None:
    write_json(record_path(subject, score), record)


def read_record(subject: Subject, score: Score) -> Record | None:
    """What was measured of this SAE as it is now; None where nothing was, or its weights or what the score is have
    changed since: beside others it would be compared with what it is not.

    None also, with a line, where the file is damaged: then it is measured again.
    """
    path = record_path(subject, score)
    if not path.is_file():
        return None
    try:
        record = _read(path)
    except DamagedFileError as error:
        print(error, file=sys.stderr)
        return None
    is_current = record["weights"] == subject.digest() and record.get("score_version", "1") == score.version
    is_whole = record["status"] != "done" or record["value"] is not None  # null: not a number, once written as done
    return record if is_current and is_whole else None


def read_records(path: Path) -> list[Record]:
    """The rows of `quality.json`, as they are shown; none, with a line, where the file is damaged."""
    if not path.is_file():
        return []
    again = "python -m saemd.evaluate writes it again"
    try:
        records = read_json(path, again)
        if not isinstance(records, list):
            raise DamagedFileError(path, "is no list of scores", again)
        for record in records:
            _check(path, record, _SHOWN, again)
    except DamagedFileError as error:
        print(error, file=sys.stderr)
        return []
    return records


def _read(path: Path) -> Record:
    again = "so this score is measured again"
    record = read_json(path, again)
    _check(path, record, _KEPT, again)
    return record


def _check(path: Path, record: Any, kinds_of: dict[str, Any], remedy: str) -> None:
    """Raises `DamagedFileError` where it is no record of a score, with values of these kinds."""
    if not isinstance(record, dict):
        raise DamagedFileError(path, "is no record of a score", remedy)
    for key, kinds in kinds_of.items():
        if not isinstance(record.get(key), kinds) or isinstance(record[key], bool):
            raise DamagedFileError(path, f"is no record of a score ({key}: {record.get(key)!r:.40})", remedy)
    if record["status"] == "done" and record["achieved_l0"] is None:
        raise DamagedFileError(path, "is no record of a score (no achieved_l0)", remedy)


def reasons(records: list[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records without a value by their score and the reason."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["status"] != "done":
            found.setdefault((record["score"], record["reason"]), []).append(record)
    return found
