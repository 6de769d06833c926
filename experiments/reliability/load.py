"""Several processes train one sweep of 200 tiny runs in one run root at once; then its comparison and report.

python experiments/reliability/load.py                # 4 processes, each the same sweep: about 10 minutes of two cores
python experiments/reliability/load.py runs=40 cells=10 out=/tmp/load.json      # 10 cells (a start and an L0), 4 seeds
python experiments/reliability/load.py made=200      # only the comparison and the report, of made-up runs

A run's folder is held by one process; the others go on with the next run, and wait at the end for what is left. So
each command should end with all runs finished; one that does not is given again. Measured: lost or doubled runs and
records, commands that waited, memory, times, the report's size.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="agg")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from commands import Ended, run, warm_up  # noqa: E402
from world import make_inputs, world_words  # noqa: E402

PAGE = os.sysconf("SC_PAGE_SIZE")
TRAINED = re.compile(r"^(init=\S+ l0=\S+ seed=\S+): done, .* tokens$", re.MULTILINE)  # the end of a progress bar

WAITED = "waiting for runs that others train: "


class Watch:
    """A process that runs a command until it succeeds: its tries, its memory over time, what it trained."""

    def __init__(self, words: list[str]) -> None:
        self.words, self.tries, self.memory, self.trained = words, [], [], []

    def __call__(self) -> None:
        for _ in range(5):
            ended = run(self.words, 0.0, self._follow)
            self.tries.append(ended)
            self.trained += TRAINED.findall(ended.said)
            if ended.code == 0:
                return

    def _follow(self, pid: int) -> None:
        threading.Thread(target=self._sample, args=(pid,), daemon=True).start()

    def _sample(self, pid: int) -> None:
        """Resident megabytes, every second."""
        try:
            while True:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                self.memory.append(round(pages * PAGE / 1e6))
                time.sleep(1)
        except (OSError, IndexError):
            return


def measured(words: list[str]) -> tuple[Ended, dict[str, float]]:
    started = time.monotonic()
    ended = run(words)
    return ended, {"processor_seconds": round(ended.seconds, 1), "wall_seconds": round(time.monotonic() - started, 1)}


def main(arguments: list[str]) -> None:
    given = dict(word.split("=", 1) for word in arguments)
    runs, processes, cells = (int(given.get(key, n)) for key, n in (("runs", 200), ("processes", 4), ("cells", 50)))
    out = Path(given.get("out", HERE / "load.json"))
    warm_up()
    if "made" in given:
        result = compare_made(int(given["made"]))
        out = Path(given.get("out", HERE / "comparison.json"))
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))
        return
    with tempfile.TemporaryDirectory(prefix="saemd-load-") as root:
        os.environ["TMPDIR"] = root
        inputs, work = Path(root, "inputs"), Path(root, "work")
        make_inputs(inputs)
        words = [*world_words(inputs, work), "tokens=1024"]
        assert run(["cache", *words]).code == 0
        l0, seeds = ",".join(str(k) for k in range(2, 2 + cells // 2)), ",".join(map(str, range(runs // cells)))
        sweep = ["train", "-m", *words, "init=mirror,uniform", f"l0={l0}", f"seed={seeds}"]
        watches = [Watch(sweep) for _ in range(processes)]
        threads = [threading.Thread(target=watch) for watch in watches]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.monotonic() - started
        result = outcome(watches, work / "runs", runs, cells, wall)
        out.write_text(json.dumps(result, indent=1) + "\n")
        table = (work / "runs" / "stability" / "stability.json").read_bytes()
        _, result["comparison_again"] = measured(["stability", f"run_root={work / 'runs'}"])
        result["table_is_stable"] = table == (work / "runs" / "stability" / "stability.json").read_bytes()
        for path in sorted((work / "runs" / "stability").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        ended, result["comparison_from_nothing"] = measured(["stability", f"run_root={work / 'runs'}"])
        assert ended.code == 0, ended.said
        result["same_table_from_nothing"] = table == (work / "runs" / "stability" / "stability.json").read_bytes()
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def compare_made(runs: int) -> dict[str, Any]:
    """Compare and report made-up finished runs: two starts, 25 L0, runs / 50 seeds."""
    from tests.stability_fakes import fake_sweep

    with tempfile.TemporaryDirectory(prefix="saemd-load-") as root:
        os.environ["TMPDIR"] = root
        fake_sweep(Path(root, "runs"), ("mirror", "uniform"), range(20, 45), range(runs // 50))
        ended, seconds = measured(["stability", f"run_root={root}/runs"])
        assert ended.code == 0, ended.said
        _, repeated = measured(["stability", f"run_root={root}/runs"])
        below = Path(root, "runs", "stability")
        pairs = len(json.loads((below / "stability.json").read_text()))
        return {"runs": runs, "pairs": pairs, "first": seconds, "again": repeated,
                "report_bytes": (below / "report.html").stat().st_size}  # fmt: skip


def outcome(watches: list[Watch], run_root: Path, runs: int, cells: int, wall: float) -> dict[str, Any]:
    trained = [name for watch in watches for name in watch.trained]
    records = json.loads((run_root / "stability" / "stability.json").read_text())
    per_cell = runs // cells
    names = [json.dumps([record[key] for key in ("init", "l0", "seeds")]) for record in records]
    said = [line for watch in watches for ended in watch.tries for line in ended.said.splitlines()]
    memory = [watch.memory for watch in watches]
    failures = [line for line in said if line.startswith(("failed", "error"))]
    return {
        "runs": runs,
        "processes": len(watches),
        "finished": len(list(run_root.glob("init=*/l0=*/seed=*/metrics.json"))),
        "trained": len(trained),
        "trained_twice": len(trained) - len({*trained}),
        "records": len(names),
        "records_expected": cells * per_cell * (per_cell - 1) // 2,
        "records_doubled": len(names) - len({*names}),
        "tries": [len(watch.tries) for watch in watches],
        "exit_codes": [[ended.code for ended in watch.tries] for watch in watches],
        "commands_that_waited": sum(any(WAITED in e.said for e in watch.tries) for watch in watches),
        "other_failures": failures,
        "tracebacks": sum("Traceback" in line for line in said),
        "wall_seconds": round(wall, 1),
        "processor_seconds": round(sum(ended.seconds for watch in watches for ended in watch.tries), 1),
        "megabytes_after_a_quarter": [samples[len(samples) // 4] for samples in memory],
        "megabytes_most_of_last_quarter": [max(samples[-len(samples) // 4 :]) for samples in memory],
        "left_over": [path.name for path in run_root.rglob(".partial-*")],
        "report_bytes": (run_root / "stability" / "report.html").stat().st_size,
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
