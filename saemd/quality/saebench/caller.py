"""This project's side of SAEBench: builds the job, runs the worker in the other environment, reads its JSON.

One job measures all SAEs of a sweep with one evaluation. What does not depend on the SAE is kept below
`bench.folder("saebench")`, in a folder of the evaluation's settings and data.
"""

import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saemd.errors import UserError
from saemd.progress import NO_BARS, is_drawn, lines
from saemd.quality.bench import Bench
from saemd.quality.saebench import environment
from saemd.quality.saebench.evaluation import Evaluation
from saemd.quality.saebench.evaluations import EVALUATIONS
from saemd.quality.saebench.jobs import build_job
from saemd.quality.saebench.results import Keys
from saemd.quality.saebench.settings import SAEBenchSettings
from saemd.quality.score import Outcome, Subject, failed, not_applicable

EXIT_CODES = (0, 1)  # the worker's own


def measure(
    evaluation: Evaluation, bench: Bench, settings: SAEBenchSettings, subjects: list[Subject]
) -> Iterator[tuple[Subject, Outcome]]:
    """`Score.measure` of one evaluation."""
    if reason := evaluation.not_applicable(bench, settings):
        yield from ((subject, not_applicable(reason)) for subject in subjects)
        return
    versions = environment.versions()
    by_name = {f"{subject.digest()[:16]}-{i}": subject for i, subject in enumerate(subjects)}
    job = build_job(evaluation, bench, settings, {name: subject.weights for name, subject in by_name.items()})
    data = {
        **bench.data,
        "model": job["model"]["name"],
        **{key: job[key] for key in ("text", "data", "packaged", "known") if job.get(key)},
    }
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in by_name}
    with lines(f"SAEBench's {evaluation.name}", total=len(subjects), unit="SAEs") as progress:
        waiting = [subject.name for subject in subjects]
        progress.note(waiting[0])
        for event in run_worker(job):
            subject, events = by_name[event["name"]], measured[event["name"]]
            if "error" not in event:
                events.append(event)
                if len(events) < settings.repetitions:
                    progress.note(f"{subject.name}, repetition {len(events) + 1} of {settings.repetitions}")
                    continue
                outcome = outcome_of(events, evaluation.keys, getattr(settings, "headline", None), data, versions)
            else:
                outcome = not_applicable(event["error"]) if event["not_applicable"] else failed(event["error"])
            progress.advance()
            del waiting[0]  # the worker takes them in this order
            progress.note(waiting[0] if waiting else "")
            yield subject, outcome


def outcome_of(
    events: list[dict[str, Any]], keys: Keys, headline: int | None, data: dict[str, Any], versions: dict[str, str]
) -> Outcome:
    """The score of one SAE from its events, one for each seed; a failed one where SAEBench's figure is not a number."""
    paths = [Path(event["result"]) for event in events]
    try:
        readings = [keys.read(json.loads(path.read_text()), headline) for path in paths]
    except ValueError as error:
        return failed(str(error))
    std, repetitions, spread = readings[0].std, readings[0].pieces, keys.pieces_are
    if len(readings) > 1:
        std = statistics.stdev(reading.value for reading in readings)
        repetitions, spread = len(readings), "seeds of its draws"
    value = statistics.fmean(reading.value for reading in readings)
    shared = [name for name in readings[0].values if all(name in reading.values for reading in readings)]
    means = {name: statistics.fmean(reading.values[name] for reading in readings) for name in shared}
    extra = {key: fact for event in events for key, fact in event["extra"].items()}
    return Outcome(
        "done",
        value=value,
        values={"score": value, **means},
        std=std,
        repetitions=repetitions,
        spread=spread if std is not None else None,
        details={**extra, "results": [str(path) for path in paths]},
        data=data,
        versions=versions,
        seconds=sum(event["seconds"] for event in events),
    )


def run_worker(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The worker's events on single SAEs. Its progress bars go to stderr on a terminal; elsewhere it draws none.

    Raises `UserError` with the worker's reason where nothing could be measured, and where it ends without a reason.
    What SAEBench kept is removed where the worker was killed, this time or the last: it might be half written, and
    every later try would fail on it.
    """
    work, drawn = Path(job["work"]), is_drawn()
    running = work / "begun"  # exists while a worker runs
    if running.exists():
        _remove_artifacts(work)
    running.touch()
    (work / "job.json").write_text(json.dumps(job, indent=2))
    command = [environment.python(), "-m", "saemd.quality.saebench.worker", str(work / "job.json")]
    variables = {
        **os.environ, "TQDM_MININTERVAL": "1", "TQDM_NCOLS": "90",
        "PYTHONPATH": str(environment.link_package(work / "code")),
        "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(job["threads"]), "PYTHONHASHSEED": "0",
        **({} if drawn else NO_BARS),
    }  # fmt: skip
    (work / "log.txt").unlink(missing_ok=True)
    reason: str | None = None  # why nothing could be measured
    with (
        open(work / "log.txt", "a") as log,  # the worker appends to it too
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=None if drawn else log, text=True, env=variables
        ) as worker,
    ):
        assert worker.stdout is not None
        try:
            for line in worker.stdout:
                event = json.loads(line)
                if "name" in event:
                    yield event
                else:
                    reason = event["error"]
            worker.wait()
        finally:
            if worker.poll() is None:
                worker.kill()
            was_killed = worker.wait() not in EXIT_CODES
            if was_killed or EVALUATIONS[job["evaluation"]].large_cache:
                _remove_artifacts(work)
            running.unlink()
    if reason is not None:
        raise UserError(reason)
    if worker.returncode:
        how = f"signal {-worker.returncode} (out of memory?)" if worker.returncode < 0 else f"code {worker.returncode}"
        raise UserError(f"SAEBench ended with {how}; see {work / 'log.txt'}")


def _remove_artifacts(work: Path) -> None:
    for artifacts in work.glob("seed=*/artifacts"):
        shutil.rmtree(artifacts)
