"""One evaluation of a list of SAEs, in SAEBench's environment.

    .venv-saebench/bin/python -m saemd.quality.saebench.worker job.json

`job.json` is what `saemd.quality.saebench.jobs.build_job` returns. Events go to stdout, one JSON object a line:

    {"name": …, "seed": …, "result": <SAEBench's JSON file>, "extra": {…}, "seconds": …}    one SAE is done
    {"name": …, "error": <one line>, "not_applicable": false}                               one SAE failed
    {"error": <one line>}                                                                   nothing could be measured

What SAEBench prints, and tracebacks, go to log.txt in the job's folder. Its progress bars go to stderr, which the
caller sends to the same file where no terminal shows them.
"""

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saemd.quality.saebench.evaluation import NotApplicableError
from saemd.quality.saebench.evaluations import EVALUATIONS
from saemd.quality.saebench.worker.explain import explained
from saemd.quality.saebench.worker.place import enter

Emit = Callable[..., None]


def main(path: str) -> int:
    job = json.loads(Path(path).read_text())
    os.chdir(job["work"])
    _end_with_the_caller(os.getppid())
    emit = _events_on_stdout(Path("log.txt"))
    warnings.simplefilter("ignore")
    try:
        _run(job, emit)
    except Exception as error:  # reported in one line; its traceback is in the log
        emit(error=explained(error, job))
        return 1
    return 0


def _run(job: dict[str, Any], emit: Emit) -> None:
    import torch
    from datasets import disable_progress_bars

    from saemd.quality.saebench.worker import adapter, models
    from saemd.quality.saebench.worker.measure import measure

    disable_progress_bars()
    torch.set_num_threads(job["threads"])
    evaluation = EVALUATIONS[job["evaluation"]]
    dtype = getattr(torch, job["llm_dtype"])
    sae_dtype = getattr(torch, evaluation.sae_dtype or job["llm_dtype"])
    name, device = job["model"]["name"], job["device"]
    folder = models.prepare(Path(job["model"]["folder"]), Path("model").absolute())
    model = models.hooked(folder, name, device, dtype) if evaluation.hooked else None
    d_model = json.loads((folder / "config.json").read_text())["hidden_size"]
    for entry in job["saes"]:
        try:
            for seed in job["seeds"]:
                enter(Path(job["work"]) / f"seed={seed}", folder, name, job["data"])
                started = time.perf_counter()
                sae = adapter.load(Path(entry["weights"]), name, job["layer"], d_model, device, sae_dtype)
                result, extra = measure(job, entry["name"], sae, model, seed)
                seconds = time.perf_counter() - started
                emit(name=entry["name"], seed=seed, result=str(result.absolute()), extra=extra, seconds=seconds)
        except Exception as error:  # the other SAEs go on
            not_applicable = isinstance(error, NotApplicableError)
            emit(name=entry["name"], error=explained(error, job), not_applicable=not_applicable)


def _end_with_the_caller(parent: int) -> None:
    """An evaluation takes hours: it must not go on when its caller was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _events_on_stdout(log: Path) -> Emit:
    """Emits events on stdout, and sends everything else that is printed to `log`, also from C code."""
    events = os.fdopen(os.dup(1), "w")
    sys.stdout.flush()
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def emit(**event: Any) -> None:
        print(json.dumps(event), file=events, flush=True)

    return emit


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
