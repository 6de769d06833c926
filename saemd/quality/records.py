"""One record per SAE and score: what `<run>/quality/<score>.json` holds, and the rows of `quality.json`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from saemd.errors import UserError
from saemd.quality.bench import Bench
from saemd.quality.score import Outcome, Score, Subject, fingerprint
from saemd.stability.store import write_json

Record = dict[str, Any]


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
    """
    path = record_path(subject, score)
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        is_current = record["weights"] == subject.digest() and record.get("score_version", "1") == score.version
        is_whole = record["status"] != "done" or record["value"] is not None  # null: not a number, once written as done
        return record if is_current and is_whole else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no record of a score ({error}); delete it") from error


def reasons(records: list[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records without a value by their score and the reason."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["status"] != "done":
            found.setdefault((record["score"], record["reason"]), []).append(record)
    return found
