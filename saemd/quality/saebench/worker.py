"""Runs in SAEBench's environment: one evaluation of a list of SAEs.

    .venv-saebench/bin/python -m saemd.quality.saebench.worker job.json

`job.json` is `saemd.quality.saebench.job.build`'s. Events go to stdout, one JSON object a line:

    {"name": …, "seed": …, "result": <SAEBench's JSON file>, "extra": {…}, "seconds": …}    one SAE is done
    {"name": …, "error": <one line>, "not_applicable": false}                               one SAE failed
    {"error": <one line>}                                                                   nothing could be measured

What SAEBench prints, and tracebacks, go to log.txt in the job's folder; its progress bars to stderr, which its caller
sends to the same file where no terminal shows them.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saemd.errors import UserError
from saemd.quality.saebench.settings import endpoint_key

Say = Callable[..., None]
MISSING = (
    *("DatasetNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "FileNotFoundError", "HFValidationError"),
    *("LocalEntryNotFoundError", "ConnectTimeout", "ConnectError", "RepositoryNotFoundError", "GatedRepoError"),
)


def main(path: str) -> int:
    job = json.loads(Path(path).read_text())
    os.chdir(job["work"])
    _end_with_the_caller(os.getppid())
    say = _only_events_on_stdout(Path("log.txt"))
    warnings.simplefilter("ignore")
    try:
        _run(job, say)
    except Exception as error:  # reported in one line; its traceback is in the log
        say(error=_explained(error, job))
        return 1
    return 0


def _run(job: dict[str, Any], say: Say) -> None:
    import torch
    from datasets import disable_progress_bars

    from saemd.quality.saebench import adapter, models
    from saemd.quality.saebench.evaluations import NotApplicableError, evaluate

    disable_progress_bars()
    torch.set_num_threads(job["threads"])
    dtype = getattr(torch, job["llm_dtype"])
    name, device = job["model"]["name"], job["device"]
    if job.get("judge"):
        job["judge"]["key"] = endpoint_key(job["judge"]["key_variable"])
    sae_dtype = torch.float32 if job["evaluation"] == "sae_probes" else dtype  # as the activations that it is given
    folder = models.prepare(Path(job["model"]["folder"]), Path("model").absolute())
    model = None if job["evaluation"] == "ravel" else models.hooked(folder, name, device, dtype)
    d_model = json.loads((folder / "config.json").read_text())["hidden_size"]
    for entry in job["saes"]:
        try:
            for seed in job["seeds"]:
                _enter(Path(job["work"]) / f"seed={seed}", folder, name, job.get("data"))
                started = time.perf_counter()
                sae = adapter.load(Path(entry["weights"]), name, job["layer"], d_model, device, sae_dtype)
                result, extra = evaluate(job, entry["name"], sae, model, seed)
                seconds = time.perf_counter() - started
                say(name=entry["name"], seed=seed, result=str(result.absolute()), extra=extra, seconds=seconds)
        except Exception as error:  # the other SAEs go on
            not_applicable = isinstance(error, NotApplicableError) or _answers_nothing(job)
            say(name=entry["name"], error=_explained(error, job), not_applicable=not_applicable)


def _end_with_the_caller(parent: int) -> None:
    """An evaluation takes hours: it must not go on when its caller was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _only_events_on_stdout(log: Path) -> Say:
    """Sends everything else that is printed to `log`, also from C code."""
    events = os.fdopen(os.dup(1), "w")
    sys.stdout.flush()
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def say(**event: Any) -> None:
        print(json.dumps(event), file=events, flush=True)

    return say


def _enter(place: Path, model: Path, name: str, data: str | None) -> None:
    """Makes `place` the working directory: each seed keeps its own activations and probes.

    Links there, where `load_dataset` and `from_pretrained` look first: the copies of hub data sets in `data`, and the
    model under its name.
    """
    place.mkdir(exist_ok=True)
    os.chdir(place)
    for path in Path(".").iterdir():
        if path.is_symlink():
            path.unlink()
    Path(name).symlink_to(model)
    for path in sorted(Path(data).iterdir()) if data else []:
        Path(path.name).symlink_to(path.resolve())


def _explained(error: Exception, job: dict[str, Any]) -> str:
    """One line for a user. SAEBench's own assertions have no text: then the place and the line are named."""
    traceback.print_exception(error, file=sys.stdout)
    said = " ".join(str(error).split())[:300]
    if isinstance(error, UserError):
        return said
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "sae_bench" in frame.filename]
    where = ""
    if frames:
        place = frames[-1].filename.split("site-packages/")[-1]
        where = f" ({place}:{frames[-1].lineno}: {frames[-1].line})"
    kind = type(error).__name__
    if _answers_nothing(job):
        return "this model answers no question of some of the data sets right in all 24 orders of its choices"
    if kind in MISSING:
        return f"a data set cannot be had: {said}{where}; lay a copy under <data>/<its hub name> and set data"
    if isinstance(error, AssertionError) and frames and frames[-1].name == "load_and_tokenize_dataset":
        asked = job["config"]["total_tokens"]  # by AutoInterp, its only caller
        return f"saebench_{job['evaluation']}.total_tokens={asked}: the text has fewer tokens; use fewer"
    if isinstance(error, KeyError) and frames and frames[-1].name == "filter_dataset":  # such classes were left out
        sizes = " and ".join(f"{name}={job['config'][name]}" for name in job["config"] if name.endswith("_set_size"))
        return f"a data set is too small: class {said} has fewer texts than {sizes} ask for; use fewer"
    if isinstance(error, AssertionError) or "larger sample than population" in said:
        return f"a data set is too small for these settings, or lacks a class: {said or 'SAEBench asserts'}{where}"
    return f"{kind}: {said or 'no message'}{where}"


def _answers_nothing(job: dict[str, Any]) -> bool:
    """Unlearning counts the questions that the model answers at all; without any SAEBench divides by zero."""
    if job["evaluation"] != "unlearning":
        return False
    answered = Path("artifacts").glob("unlearning/*/data/question_ids/all/*_correct.csv")
    return any(not path.read_text().strip() for path in answered)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
