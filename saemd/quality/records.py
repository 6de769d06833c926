"""Records, one per SAE and score: the content of `<run>/quality/<score>.json`, and the rows of `quality.json`."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from saemd.files import DamagedFileError, read_json, write_json
from saemd.quality.bench import Bench
from saemd.quality.score import Outcome, Score, Subject, fingerprint

Record = dict[str, Any]

_NUMBER, _NONE = (int, float), type(None)
_SHOWN: dict[str, Any] = {
    **dict.fromkeys(("init", "score", "title", "status"), str),
    **dict.fromkeys(("achieved_l0", "value", "std"), (*_NUMBER, _NONE)),
    **dict.fromkeys(("values", "data"), dict),
    "l0": _NUMBER,
    "seed": (int, _NONE),
    "reason": (str, _NONE),
}
_KEPT = {**_SHOWN, "fingerprint": str, "weights": str}


def record_path(subject: Subject, score: Score) -> Path:
    return subject.folder / "quality" / f"{score.name}.json"


def make_record(subject: Subject, score: Score, settings: Any, bench: Bench, outcome: Outcome) -> Record:
    """The outcome with all that it depends on. `l0` is the target; `achieved_l0` was measured on held-out text."""
    fields = dataclasses.asdict(outcome)
    l0 = fields["values"].get("l0") if subject.measured_l0 is None else subject.measured_l0
    weights = subject.digest()
    return {
        "init": subject.init,
        "l0": int(subject.l0) if subject.l0 == int(subject.l0) else subject.l0,
        "achieved_l0": l0,
        "seed": subject.seed,
        "score": score.name,
        "score_version": score.version,
        "title": score.title,
        **{key: fields[key] for key in ("status", "reason", "value", "std", "repetitions", "spread", "values")},
        "details": fields["details"],
        "settings": dataclasses.asdict(settings),
        "data": fields["data"],
        "versions": {**bench.versions, **fields["versions"]},
        "seconds": fields["seconds"],
        "weights": weights,
        "fingerprint": fingerprint(score, settings, bench.fingerprint, weights),
    }


def write_record(subject: Subject, score: Score, record: Record) -> None:
    write_json(record_path(subject, score), record)


def read_record(subject: Subject, score: Score) -> Record | None:
    """The record of this SAE as it is now. None where there is none, or where the SAE's weights or the score's version
    have changed since.

    Also None, with a line on stderr, where the file is damaged: then the score is measured again.
    """
    path = record_path(subject, score)
    if not path.is_file():
        return None
    remedy = "so this score is measured again"
    try:
        record = read_json(path, remedy)
        _check(path, record, _KEPT, remedy)
    except DamagedFileError as error:
        print(error, file=sys.stderr)
        return None
    is_current = record["weights"] == subject.digest() and record.get("score_version", "1") == score.version
    has_value = record["status"] != "done" or record["value"] is not None  # earlier versions wrote NaN as done and null
    return record if is_current and has_value else None


def read_records(path: Path) -> list[Record]:
    """The rows of `quality.json`. None, with a line on stderr, where the file is damaged."""
    if not path.is_file():
        return []
    remedy = "python -m saemd.evaluate writes it again"
    try:
        records = read_json(path, remedy)
        if not isinstance(records, list):
            raise DamagedFileError(path, "is no list of scores", remedy)
        for record in records:
            _check(path, record, _SHOWN, remedy)
    except DamagedFileError as error:
        print(error, file=sys.stderr)
        return []
    return records


def _check(path: Path, record: Any, types: dict[str, Any], remedy: str) -> None:
    """Raise `DamagedFileError` where `record` is no record of a score with values of these types."""
    if not isinstance(record, dict):
        raise DamagedFileError(path, "is no record of a score", remedy)
    for key, expected in types.items():
        if key not in record or not isinstance(record[key], expected) or isinstance(record[key], bool):
            raise DamagedFileError(path, f"is no record of a score ({key}: {record.get(key)!r:.40})", remedy)
    if record["status"] == "done" and record["achieved_l0"] is None:
        raise DamagedFileError(path, "is no record of a score (no achieved_l0)", remedy)


def reasons(records: list[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records without a value, by score and reason."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["status"] != "done":
            groups.setdefault((record["score"], record["reason"]), []).append(record)
    return groups
