"""Interrupt every command at random moments, and compare its end with that of an undisturbed one, bit by bit.

python experiments/reliability/run.py            # 20 of each kind; needs root, for a small disk in memory (tmpfs)
python experiments/reliability/run.py n=5 only=harvest,training parts=kill out=/tmp/some.json

Kills (SIGKILL) and full disks come at moments drawn over the command's processor time; those behind its end are drawn
again. Then the same command is given again. Flips: one bit of one file, then the command that reads it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="agg")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
os.environ["PYTHONPATH"] = f"{HERE.parents[1]}:{os.environ.get('PYTHONPATH', '')}"

from commands import Ended, kill, run, warm_up  # noqa: E402
from disk import filled, mounted  # noqa: E402
from flips import flip_all  # noqa: E402
from trees import EXCEPTED, contents, left_over  # noqa: E402
from world import Scenario, make_inputs, scenarios  # noqa: E402

OWN = 1  # trial of each is in a process of its own; the others are forks of a warm one
TRIES = 10  # draws for one moment, where the command ended before it


@contextmanager
def folders() -> Iterator[tuple[Path, Path]]:
    """Inputs, and a small disk of its own to work on."""
    with tempfile.TemporaryDirectory(prefix="saemd-reliability-") as root:
        os.environ["TMPDIR"] = root
        tempfile.tempdir = root
        inputs, work = Path(root, "inputs"), Path(root, "disk")
        make_inputs(inputs)
        with mounted(work, megabytes=64):
            yield inputs, work


def prepared(scenario: Scenario, work: Path, kept: Path) -> None:
    """Run what comes before the command, and keep a copy."""
    shutil.rmtree(kept, ignore_errors=True)
    _empty(work)
    for words in scenario.before:
        ended = run(words)
        assert ended.code == 0, ended.said
    if scenario.removed:
        shutil.rmtree(work / scenario.removed)
    shutil.copytree(work, kept, dirs_exist_ok=True)


def again(kept: Path, work: Path) -> None:
    """Put the prepared state back. Times of files are kept, so that digests of them stay valid."""
    _empty(work)
    shutil.copytree(kept, work, dirs_exist_ok=True)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def interrupted(scenario: Scenario, work: Path, kept: Path, whole: dict[str, str], draw: random.Random, seconds: float,
                how: str, own: bool) -> dict[str, Any] | None:  # fmt: skip
    """One trial; None where the command ended before every drawn moment."""
    for _ in range(TRIES):
        again(kept, work)
        at = draw.uniform(0, seconds)
        if how == "kill":
            ended = run(scenario.command, at, kill, own=own)
            hit = ended.code == -9
            clear = True
        else:
            with filled(work) as fill:
                ended = run(scenario.command, at, lambda _: fill(), own=own)
            hit = ended.code != 0
            clear = bool(ended.errors) and not ended.has_traceback
        if hit:
            break
    else:
        return None
    second = run(scenario.command)
    now = contents(work)
    differing = sorted(name for name in {**whole, **now} if whole.get(name) != now.get(name))
    result: dict[str, Any] = {"at": round(at / seconds, 3), "own_process": own, "clear": clear, "code": second.code}
    result |= {"differing": differing, "left_over": left_over(work)}
    if not clear or second.code or differing:
        result["said"] = ended.said[-1500:] + "\n--- again ---\n" + second.said[-1500:]
    return result


def measure(scenario: Scenario, work: Path, kept: Path, n: int, how: str, draw: random.Random) -> dict[str, Any]:
    prepared(scenario, work, kept)
    lengths: dict[bool, float] = {}
    whole: dict[str, str] = {}
    for own in (False, True)[: 2 if n > 1 else 1]:
        again(kept, work)
        ended: Ended = run(scenario.command, own=own)
        assert ended.code == 0, ended.said
        lengths[own] = ended.seconds
        assert not whole or whole == contents(work), "two undisturbed commands differ"
        whole = contents(work)
    trials = []
    for i in range(n):
        own = i < min(OWN, n - 1)
        trials.append(interrupted(scenario, work, kept, whole, draw, lengths[own], how, own))
    hits = [trial for trial in trials if trial]
    good = [trial for trial in hits if trial["clear"] and not trial["code"] and not trial["differing"]]
    return {
        "asked": n, "interrupted": len(hits), "same_end": len(good), "processor_seconds": round(lengths[False], 2),
        "files_compared": len(whole), "with_left_overs": sum(bool(trial["left_over"]) for trial in hits),
        "own_processes": sum(trial["own_process"] for trial in hits), "moments": [trial["at"] for trial in hits],
        "bad": [trial for trial in hits if trial not in good],
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    given = dict(word.split("=", 1) for word in arguments)
    n, parts = int(given.get("n", 20)), given.get("parts", "kill,full,flip").split(",")
    out = Path(given.get("out", HERE / "results.json"))
    started, results = time.monotonic(), json.loads(out.read_text()) if out.exists() else {}
    results |= {"excepted": EXCEPTED, "seed": int(given.get("seed", 0))}
    warm_up()
    with folders() as (inputs, work):
        kept = inputs.parent / "kept"
        chosen = {name: s for name, s in scenarios(inputs, work).items() if name in given.get("only", name).split(",")}
        for how in ("kill", "full"):
            for name, scenario in chosen.items() if how in parts else ():
                draw = random.Random(f"{results['seed']} {how} {name}")
                results.setdefault(how, {})[name] = found = measure(scenario, work, kept, n, how, draw)
                shown = f"{found['same_end']} of {found['interrupted']}, {time.monotonic() - started:.0f} s"
                print(f"{how:5} {name:10} {shown}", flush=True)
                out.write_text(json.dumps(results, indent=1) + "\n")
        if "flip" in parts:
            results["flip"] = flip_all(scenarios(inputs, work), work, kept, n, random.Random(results["seed"]))
    results.setdefault("wall_seconds", {})[",".join(parts)] = round(time.monotonic() - started)
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
