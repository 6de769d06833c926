"""A run root evaluated: every score of every finished run, measured where it is missing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saemd import locks
from saemd.errors import UserError, bad_value
from saemd.files import write_json
from saemd.logging.account import check_account
from saemd.quality.bench import Bench
from saemd.quality.records import Record, make_record, read_record, write_record
from saemd.quality.saebench import gemma_scope
from saemd.quality.score import Outcome, Score, Subject, failed, fingerprint, finite
from saemd.quality.scores import SCORES
from saemd.quality.spread import summary
from saemd.runs import Run, find_runs
from saemd.sae.export import load_finite
from saemd.threads import use_threads

Group = tuple[Bench, list[tuple[Run, Subject]]]
Failures = dict[tuple[Path, str], Record]  # by the SAE's folder and the score


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation of a run root found."""

    folder: Path  # <run_root>/quality
    records: list[Record]  # every score of every run that has one, earlier ones included; what failed now as failed
    failures: int  # runs that were refused, and scores of SAEs that failed, of those asked for now
    broken: list[str]  # runs that cannot be read, or whose language model cannot


def evaluate_root(config: Any) -> Evaluation:
    """Measure what `config` (a `FullConfig`) asks for and is missing; write `<run_root>/quality/quality.json`.

    A failing score is recorded as failed, with its reason, and the others go on; where an earlier value was measured
    with other settings, the run keeps that one, and only this call shows the failure. Raises `UserError` for a run
    root without a finished run whose language model is there.
    """
    use_threads(config.threads)
    check_account(config.logger)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise bad_value("device", config.device, "this machine has no GPU that torch can use; use cpu")
    run_root = Path(config.run_root)
    runs, broken = find_runs(run_root)
    if not runs:
        more = f" ({broken[0]})" if broken else ""
        remedy = f"no finished run init=…/l0=…/seed=… in it{more}; train one with python -m saemd.train"
        raise bad_value("run_root", run_root, remedy)
    wanted = [SCORES[name] for name in config.scores or SCORES]
    failures = 0
    now: Failures = {}
    benches, unreadable = _benches(runs, config)
    if not benches:
        raise UserError(unreadable[0])
    published = [published_beside(bench, config) for bench, _ in benches]  # refused before hours of work
    for (bench, members), beside in zip(benches, published, strict=True):
        accepted = _refuse_strangers(bench, members, wanted, config, now)
        failures += len(members) - len(accepted)
        accepted += beside
        for score in wanted:
            failures += _measure(score, getattr(config, score.name), bench, accepted, now)
    subjects = sorted(
        (subject for _, members in benches for _, subject in members), key=lambda s: (s.init, s.l0, s.seed)
    )
    subjects += {subject.folder: subject for beside in published for subject in beside}.values()
    pairs = [(subject, score) for score in SCORES.values() for subject in subjects]
    folder = run_root / "quality"
    with locks.locked(folder / ".lock"):  # and read within: of two evaluations the last to write has what both measured
        found = [now.get((subject.folder, score.name)) or read_record(subject, score) for subject, score in pairs]
        records = [record for record in found if record]
        write_json(folder / "quality.json", records)
        write_json(folder / "spread.json", summary(records))
    return Evaluation(folder, records, failures, broken + unreadable)


def subject_of(run: Run) -> Subject:
    """A finished run as something to measure."""
    return Subject(
        init=run.label,
        l0=run.l0,
        seed=run.seed,
        measured_l0=run.metrics["l0"],
        d_in=run.d_in,
        folder=run.path,
        weights=run.weights,
        load=partial(load_finite, run.path),
    )


def published_beside(bench: Bench, config: Any) -> list[Subject]:
    """Gemma Scope's SAEs of the bench's layer, where `gemma_scope` asks for them.

    Raises `UserError` where they cannot be had, or are for activations of another width than the bench's model has.
    """
    if config.gemma_scope is None:
        return []
    folder = "" if config.gemma_scope == "hub" else config.gemma_scope
    if not folder and bench.info.name != gemma_scope.LM:
        remedy = f"it is of {gemma_scope.LM}, and these runs are of {bench.info.name}; leave it out"
        raise bad_value("gemma_scope", config.gemma_scope, remedy)
    found = gemma_scope.subjects(Path(config.run_root) / "quality" / "gemma-scope", folder, layer=bench.layer)
    if (d_in := found[0].d_in) != bench.info.d_model:
        remedy = f"its SAEs take width {d_in}, {bench.info.name} has {bench.info.d_model}; leave it out"
        raise bad_value("gemma_scope", config.gemma_scope, remedy)
    return found


def _benches(runs: list[Run], config: Any) -> tuple[list[Group], list[str]]:
    """The runs by the language model, layer and text that they are measured on, and by what counts as an outlier.

    And a line for each run of whose model or text nothing can be read any more.
    """
    groups: dict[tuple[str, float | None], Group] = {}
    unreadable = []
    for run in runs:
        try:
            bench = Bench(run.config, Path(config.cache_root), config.device)
            key = bench.fingerprint, bench.activations.outlier_factor
            groups.setdefault(key, (bench, []))[1].append((run, subject_of(run)))
        except UserError as error:
            unreadable.append(str(bad_value("run_dir", run.path, f"cannot be measured ({error})")))
    return list(groups.values()), unreadable


def _refuse_strangers(
    bench: Bench, members: list[tuple[Run, Subject]], wanted: list[Score], config: Any, now: Failures
) -> list[Subject]:
    """The subjects that belong to this language model; the others fail every score that is wanted."""
    accepted = []
    for run, subject in members:
        try:
            bench.refuse_stranger(run)
            accepted.append(subject)
        except UserError as error:
            for score in wanted:
                _write(subject, score, getattr(config, score.name), bench, failed(error), now)
    return accepted


def _write(subject: Subject, score: Score, settings: Any, bench: Bench, outcome: Outcome, now: Failures) -> None:
    """Note the outcome in the SAE's folder, a failure also in `now`; a failure never takes a measured value's place."""
    record = make_record(subject, score, settings, bench, outcome)
    if outcome.status == "failed":
        now[subject.folder, score.name] = record
        earlier = read_record(subject, score)
        if earlier and earlier["status"] == "done":
            return
    write_record(subject, score, record)


def _missing(score: Score, settings: Any, bench: Bench, subjects: list[Subject]) -> dict[Subject, None]:
    """Those whose record is missing, failed, or of other settings, data, weights or version."""
    found = {}
    for subject in subjects:
        record = read_record(subject, score)
        fresh = record and record["fingerprint"] == fingerprint(score, settings, bench.fingerprint, record["weights"])
        if not record or not fresh or record["status"] == "failed":
            found[subject] = None
    return found


def _measure(score: Score, settings: Any, bench: Bench, subjects: list[Subject], now: Failures) -> int:
    """Measure what is missing; write each at once. Returns how many failed; their records go to `now`."""
    if not _missing(score, settings, bench, subjects):
        return 0
    wait = f"{score.name}: waiting for another evaluation that measures it on the same text"
    with locks.locked(bench.folder("locks") / f"{score.name}.lock", lambda: print(wait, file=sys.stderr)):
        waiting = _missing(score, settings, bench, subjects)  # less what another evaluation has measured meanwhile
        return _measure_waiting(score, settings, bench, waiting, now)


def _measure_waiting(score: Score, settings: Any, bench: Bench, waiting: dict[Subject, None], now: Failures) -> int:
    failures = 0

    def note(subject: Subject, outcome: Outcome) -> None:
        outcome = finite(outcome)
        _write(subject, score, settings, bench, outcome, now)
        del waiting[subject]
        if outcome.status == "failed":
            tell([subject], str(outcome.reason))

    def tell(whose: list[Subject], reason: str) -> None:
        nonlocal failures
        failures += len(whose)
        name = whose[0].name if len(whose) == 1 else f"{len(whose)} SAEs"
        print(f"failed: {score.name}, {name}: {reason}", file=sys.stderr)

    if not waiting:
        return 0
    try:
        for subject, outcome in score.measure(bench, settings, list(waiting)):
            note(subject, outcome)
        assert not waiting, f"{score.name} yielded no outcome for {[subject.name for subject in waiting]}"
    except Exception as error:  # reported: as failed, with its reason, and a traceback where it is a defect
        outcome, left = failed(error), list(waiting)
        for subject in left:
            _write(subject, score, settings, bench, outcome, now)
        tell(left, str(outcome.reason))
    return failures
