"""Evaluates a run root: measures every score of every finished run that has no record of it yet."""

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
from saemd.runs import Run, fetch_runs, find_runs
from saemd.sae.export import load_finite
from saemd.threads import use_threads

Group = tuple[Bench, list[tuple[Run, Subject]]]
Failures = dict[tuple[Path, str], Record]  # this call's failed records, by the SAE's folder and the score


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a run root."""

    folder: Path  # <run_root>/quality
    records: list[Record]  # of all runs, earlier ones included; this call's failures in place of earlier records
    failures: int  # of this call: runs that were refused, and scores of SAEs that failed
    broken: list[str]  # a line for each run that cannot be read, or whose language model cannot


def evaluate_root(config: Any) -> Evaluation:
    """Measure the scores of `config` (a `FullConfig`) that have no record; write `<run_root>/quality/quality.json`.

    A failed score is recorded with its reason, and the others go on. Where the run has an earlier value, measured with
    other settings, it keeps that value, and only this call shows the failure. Raises `UserError` for a run root without
    a finished run whose language model can be read.
    """
    use_threads(config.threads)
    check_account(config.logger)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise bad_value("device", config.device, "this machine has no GPU that torch can use; use cpu")
    run_root = Path(config.run_root)
    fetch_runs(run_root)
    runs, broken = find_runs(run_root)
    if not runs:
        more = f" ({broken[0]})" if broken else ""
        remedy = f"no finished run init=…/l0=…/seed=… in it{more}; train one with python -m saemd.train"
        raise bad_value("run_root", run_root, remedy)
    scores = [SCORES[name] for name in config.scores or SCORES]
    failures = 0
    failed_now: Failures = {}
    benches, unreadable = _benches(runs, config)
    if not benches:
        raise UserError(unreadable[0])
    published = [gemma_scope_subjects(bench, config) for bench, _ in benches]  # refused before hours of work
    for (bench, members), more in zip(benches, published, strict=True):
        accepted = _of_this_bench(bench, members, scores, config, failed_now)
        failures += len(members) - len(accepted)
        for score in scores:
            failures += _measure_missing(score, getattr(config, score.name), bench, [*accepted, *more], failed_now)
    subjects = sorted(
        (subject for _, members in benches for _, subject in members), key=lambda s: (s.init, s.l0, s.seed)
    )
    subjects += {subject.folder: subject for more in published for subject in more}.values()
    pairs = [(subject, score) for score in SCORES.values() for subject in subjects]
    folder = run_root / "quality"
    with locks.locked(folder / ".lock"):  # read within: of two evaluations the last to write has the records of both
        read = [failed_now.get((subject.folder, score.name)) or read_record(subject, score) for subject, score in pairs]
        records = [record for record in read if record]
        write_json(folder / "quality.json", records)
        write_json(folder / "spread.json", summary(records))
    return Evaluation(folder, records, failures, broken + unreadable)


def subject_of(run: Run) -> Subject:
    """A finished run's SAE, to be measured."""
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


def gemma_scope_subjects(bench: Bench, config: Any) -> list[Subject]:
    """Gemma Scope's SAEs of the bench's layer; none where `gemma_scope` is null.

    Raises `UserError` where they cannot be had, or are for activations of another width than the bench's model has.
    """
    if config.gemma_scope is None:
        return []
    folder = "" if config.gemma_scope == "hub" else config.gemma_scope
    if not folder and bench.info.name != gemma_scope.LM:
        remedy = f"it is of {gemma_scope.LM}, and these runs are of {bench.info.name}; leave it out"
        raise bad_value("gemma_scope", config.gemma_scope, remedy)
    subjects = gemma_scope.subjects(Path(config.run_root) / "quality" / "gemma-scope", folder, layer=bench.layer)
    if (d_in := subjects[0].d_in) != bench.info.d_model:
        remedy = f"its SAEs take width {d_in}, {bench.info.name} has {bench.info.d_model}; leave it out"
        raise bad_value("gemma_scope", config.gemma_scope, remedy)
    return subjects


def _benches(runs: list[Run], config: Any) -> tuple[list[Group], list[str]]:
    """The runs grouped by language model, layer, text, and the factor that defines outliers.

    Also a line for each run whose model or text can no longer be read.
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


def _of_this_bench(
    bench: Bench, members: list[tuple[Run, Subject]], scores: list[Score], config: Any, failed_now: Failures
) -> list[Subject]:
    """The subjects that were trained on this bench's activations; every score of the others fails."""
    accepted = []
    for run, subject in members:
        try:
            bench.refuse_other_origin(run)
            accepted.append(subject)
        except UserError as error:
            for score in scores:
                _write(subject, score, getattr(config, score.name), bench, failed(error), failed_now)
    return accepted


def _write(subject: Subject, score: Score, settings: Any, bench: Bench, outcome: Outcome, failed_now: Failures) -> None:
    """Record the outcome in the SAE's folder. A failure goes to `failed_now` and never replaces a measured value."""
    record = make_record(subject, score, settings, bench, outcome)
    if outcome.status == "failed":
        failed_now[subject.folder, score.name] = record
        earlier = read_record(subject, score)
        if earlier and earlier["status"] == "done":
            return
    write_record(subject, score, record)


def _missing(score: Score, settings: Any, bench: Bench, subjects: list[Subject]) -> list[Subject]:
    """Those whose record is missing, failed, or of other settings, data, weights or version."""

    def is_missing(subject: Subject) -> bool:
        record = read_record(subject, score)
        if not record or record["status"] == "failed":
            return True
        return record["fingerprint"] != fingerprint(score, settings, bench.fingerprint, record["weights"])

    return [subject for subject in subjects if is_missing(subject)]


def _measure_missing(score: Score, settings: Any, bench: Bench, subjects: list[Subject], failed_now: Failures) -> int:
    """Measure what is missing, and write each record at once. Returns the number of failures."""
    if not _missing(score, settings, bench, subjects):
        return 0
    failures = 0

    def record(subjects: list[Subject], outcome: Outcome) -> None:
        nonlocal failures
        for subject in subjects:
            _write(subject, score, settings, bench, outcome, failed_now)
            waiting.remove(subject)
        if outcome.status == "failed":
            failures += len(subjects)
            name = subjects[0].name if len(subjects) == 1 else f"{len(subjects)} SAEs"
            print(f"failed: {score.name}, {name}: {outcome.reason}", file=sys.stderr)

    wait = f"{score.name}: waiting for another evaluation that measures it on the same text"
    with locks.locked(bench.folder("locks") / f"{score.name}.lock", lambda: print(wait, file=sys.stderr)):
        waiting = _missing(score, settings, bench, subjects)  # without those that another evaluation measured meanwhile
        try:
            for subject, outcome in score.measure(bench, settings, list(waiting)) if waiting else ():
                record([subject], finite(outcome))
            assert not waiting, f"{score.name} yielded no outcome for {[subject.name for subject in waiting]}"
        except Exception as error:  # recorded as failed outcomes, with a traceback where it is a defect
            record(list(waiting), failed(error))
    return failures
