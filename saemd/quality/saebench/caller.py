"""This project's side of SAEBench: builds the job, runs the worker in the other environment, reads its JSON.

One job measures all SAEs of a sweep with one evaluation. What does not depend on the SAE is kept below
`bench.folder("saebench")`, in a folder of the evaluation's settings and data.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saemd.errors import UserError
from saemd.progress import NO_BARS, is_drawn, lines
from saemd.quality.bench import Bench
from saemd.quality.saebench import environment, job
from saemd.quality.saebench.results import KEYS, Reading
from saemd.quality.saebench.settings import SAEBenchSettings
from saemd.quality.score import Outcome, Subject, failed, not_applicable

# Their caches are activations at all tokens, tens of GB: kept for one job, as SAEBench's own runner does. (sae-probes
# keeps those of a text's last token alone, hours of work in less than a GB.)
LARGE_CACHES = ("sparse_probing", "scr", "tpp")
ENDED = (0, 1)  # the worker's own exit codes


def measurer(evaluation: str) -> Callable[[Bench, Any, list[Subject]], Iterator[tuple[Subject, Outcome]]]:
    """`Score.measure` of one evaluation (a key of `KEYS`)."""

    def measure(bench: Bench, settings: Any, subjects: list[Subject]) -> Iterator[tuple[Subject, Outcome]]:
        return _measure(evaluation, bench, settings, subjects)

    return measure


def _measure(
    evaluation: str, bench: Bench, settings: SAEBenchSettings, subjects: list[Subject]
) -> Iterator[tuple[Subject, Outcome]]:
    if reason := job.not_applicable_reason(bench, settings):
        yield from ((subject, not_applicable(reason)) for subject in subjects)
        return
    versions = environment.versions()
    by_name = {f"{subject.digest()[:16]}-{i}": subject for i, subject in enumerate(subjects)}
    asked = job.build(evaluation, bench, settings, {name: subject.weights for name, subject in by_name.items()})
    data = {
        **bench.data,
        "model": asked["model"]["name"],
        **{key: asked[key] for key in ("text", "data", "packaged", "known") if asked.get(key)},
    }
    measured = {name: Measured() for name in by_name}
    with lines(f"SAEBench's {evaluation}", total=len(subjects), unit="SAEs") as progress:
        waiting = [subject.name for subject in subjects]
        progress.note(waiting[0])
        for event in run_worker(asked):
            subject, so_far = by_name[event["name"]], measured[event["name"]]
            if "error" not in event:
                so_far.add(event)
                if len(so_far.results) < settings.repetitions:
                    progress.note(f"{subject.name}, repetition {len(so_far.results) + 1} of {settings.repetitions}")
                    continue
                outcome = so_far.outcome(evaluation, getattr(settings, "headline", None), data, versions)
            else:
                outcome = not_applicable(event["error"]) if event["not_applicable"] else failed(event["error"])
            progress.advance()
            del waiting[0]  # the worker takes them in this order
            progress.note(waiting[0] if waiting else "")
            yield subject, outcome


@dataclass
class Measured:
    """What has come in of one SAE: one of SAEBench's files for each seed."""

    results: list[Path] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, event: dict[str, Any]) -> None:
        self.results.append(Path(event["result"]))
        self.extra |= event["extra"]
        self.seconds += event["seconds"]

    def outcome(self, evaluation: str, headline: int | None, data: dict[str, Any], versions: dict[str, str]) -> Outcome:
        """As a score; a failed one where SAEBench's figure is not a number."""
        try:
            readings = [KEYS[evaluation].read(json.loads(path.read_text()), headline) for path in self.results]
        except ValueError as error:
            return failed(str(error))
        std, repetitions, spread = readings[0].std, readings[0].pieces, KEYS[evaluation].pieces_are
        if len(readings) > 1:
            std, repetitions, spread = _std(readings), len(readings), "seeds of its draws"
        value = statistics.fmean(reading.value for reading in readings)
        return Outcome(
            "done",
            value=value,
            values={"score": value, **_means(readings)},
            std=std,
            repetitions=repetitions,
            spread=spread if std is not None else None,
            details={**self.extra, "results": [str(path) for path in self.results]},
            data=data,
            versions=versions,
            seconds=self.seconds,
        )


def _std(readings: list[Reading]) -> float:
    return statistics.stdev(reading.value for reading in readings)


def _means(readings: list[Reading]) -> dict[str, float | None]:
    """Each of SAEBench's figures over the seeds, where all have it."""
    shared = [name for name in readings[0].values if all(name in reading.values for reading in readings)]
    return {name: statistics.fmean(reading.values[name] for reading in readings) for name in shared}


def run_worker(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The worker's events on single SAEs. Its progress bars go to stderr on a terminal; elsewhere it draws none.

    Raises `UserError` where it could measure nothing, with what it says, and where it ends without saying why. What
    SAEBench kept is removed where the worker was killed, this time or the last: it might be half written, and every
    later try would fail on it.
    """
    work, drawn = Path(asked["work"]), is_drawn()
    begun = work / "begun"  # there while a worker is at work
    if begun.exists():
        _remove_artifacts(work)
    begun.touch()
    (work / "job.json").write_text(json.dumps(asked, indent=2))
    command = [environment.python(), "-m", "saemd.quality.saebench.worker", str(work / "job.json")]
    surroundings = {
        **os.environ, "TQDM_MININTERVAL": "1", "TQDM_NCOLS": "90",
        "PYTHONPATH": str(environment.link_package(work / "code")),
        "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(asked["threads"]), "PYTHONHASHSEED": "0",
        **({} if drawn else NO_BARS),
    }  # fmt: skip
    (work / "log.txt").unlink(missing_ok=True)
    nothing: str | None = None  # why nothing could be measured
    with (
        open(work / "log.txt", "a") as log,  # the worker appends to it too
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=None if drawn else log, text=True, env=surroundings
        ) as worker,
    ):
        assert worker.stdout is not None
        try:
            for line in worker.stdout:
                event = json.loads(line)
                if "name" in event:
                    yield event
                else:
                    nothing = event["error"]
            worker.wait()
        finally:
            if worker.poll() is None:
                worker.kill()
            by_itself = worker.wait() in ENDED
            if not by_itself or asked["evaluation"] in LARGE_CACHES:
                _remove_artifacts(work)
            begun.unlink()
    if nothing is not None:
        raise UserError(nothing)
    if worker.returncode:
        how = f"signal {-worker.returncode} (out of memory?)" if worker.returncode < 0 else f"code {worker.returncode}"
        raise UserError(f"SAEBench ended with {how}; see {work / 'log.txt'}")


def _remove_artifacts(work: Path) -> None:
    for artifacts in work.glob("seed=*/artifacts"):
        shutil.rmtree(artifacts)
