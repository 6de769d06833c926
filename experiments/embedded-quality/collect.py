"""Collect a finished evaluation's evidence into a folder, by default this one.

    python experiments/embedded-quality/collect.py [run_root=runs] [out=experiments/embedded-quality]

Writes `spread.json`, the figures 3 and 4, `table.md` (the core measures and all scores of each run, the tests, and the
mean over all cells of every number of SAEBench's), and `quality.json`: the records, shrunk to what these tables need.
Where sae-probes was measured it also writes `data_sets.md`, with a line for each data set.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saemd.quality.published import remarks, titles
from saemd.quality.spread import paired
from saemd.report.score_table import TESTS, test_remarks, test_rows

HERE = Path(__file__).parent
FILES = ("spread.json", "figure3.png", "figure4.png")
DIGITS = 9  # significant ones that are kept of a figure; with fewer some table would be rounded twice
KEPT = ("init", "l0", "achieved_l0", "seed", "score", "title", "status", "reason", "value", "std", "values", "seconds")
UNTRAINED_MASKS = ("nothing_swapped", "everything_swapped")  # of RAVEL, which README.md compares with the trained one
COLUMNS = {
    "Loss Recovered": ("loss_recovered", ".4f"),
    "of mean ablation": ("loss_recovered_mean", ".4f"),
    "zero everywhere": ("loss_recovered_zero_everywhere", ".4f"),
    "outliers clean": ("loss_recovered_outliers_clean", ".4f"),
    "CE": ("ce_sae", ".3f"),
    "KL": ("kl_sae", ".3f"),
    "FVU": ("fvu", ".3f"),
    "FVU with outliers": ("fvu_with_outliers", ".3f"),
    "L0": ("l0", ".1f"),
}


def tables(records: list[dict[str, Any]], tests: list[dict[str, Any]]) -> str:
    """The content of table.md, from whole or shrunk records."""
    parts = [core_table(records), scores_table(records), tests_table(tests, records), means_table(records)]
    return "\n".join(parts).replace("\n\n\n", "\n\n")


def shrunk(record: dict[str, Any]) -> dict[str, Any]:
    """What the tables need of a record."""
    data = {key: record["data"][key] for key in ("lm", "layer") if key in record["data"]}
    for key in ("packaged", "known"):  # their presence marks a score that no published number can be compared with
        if described := record["data"].get(key):
            data[key] = sorted(described)
    details = {key: record["details"][key] for key in UNTRAINED_MASKS if key in record["details"]}
    return _rounded({**{key: record[key] for key in KEPT}, "data": data, "details": details})


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def core_table(records: list[dict[str, Any]]) -> str:
    """The core measures of each run; a run without them has its reason in their place."""
    lines = [
        f"| start | target L0 | seed | std | {' | '.join(COLUMNS)} | seconds |",
        "| --- | ---: | ---: " + "| ---: " * (len(COLUMNS) + 2) + "|",
    ]
    for record in records:
        if record["score"] != "core":
            continue
        start = f"| {record['init']} | {record['l0']} | {record['seed']}"
        if record["status"] != "done":
            lines.append(f"{start} | {record['status']}: {record['reason']} |" + " |" * (len(COLUMNS) + 1))
            continue
        cells = [format(record["values"][key], form) for key, form in COLUMNS.values()]
        lines.append(f"{start} | {record['std']:.4f} | {' | '.join(cells)} | {record['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def scores_table(records: list[dict[str, Any]]) -> str:
    """Each score of each run with its own standard deviation, and its seconds; empty where core is the only one."""
    shown = titles(records)
    if len(shown) < 2:
        return ""
    lines = [
        f"| start | target L0 | seed | {' | '.join(shown.values())} |",
        "| --- | ---: | ---: " + "| ---: " * len(shown) + "|",
    ]
    runs = dict.fromkeys((record["init"], record["l0"], record["seed"]) for record in records)
    for run in runs:
        mine = {r["score"]: r for r in records if (r["init"], r["l0"], r["seed"]) == run}
        lines.append(f"| {' | '.join(map(str, run))} | {' | '.join(_cell(mine.get(score)) for score in shown)} |")
    lines += ["", "value ± its own standard deviation (seconds); " + "; ".join(remarks(records)), ""]
    return "\n".join(lines) + "\n"


def tests_table(tests: list[dict[str, Any]], records: list[dict[str, Any]]) -> str:
    """The paired test of each score over the cells."""
    rows = [[name.replace("|", " ") for name in TESTS], ["---"] * len(TESTS), *test_rows(tests, titles(records))]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", *test_remarks(tests)]) + "\n"


def means_table(records: list[dict[str, Any]]) -> str:
    """The means over cells (L0, seed) of each value of a score, and of its own deviation, for both starts.

    A value that one of these SAEs lacks is left out.
    """
    lines = ["| score | value | mirror | uniform | cells | mirror ahead |", "| --- | --- " + "| ---: " * 4 + "|"]
    for score in titles(records):
        done = [r for r in records if r["score"] == score and r["status"] == "done"]
        values = {(r["init"], r["l0"], r["seed"]): {**r["values"], "own deviation": r["std"]} for r in done}
        names = values[("mirror", *cells[0])] if (cells := _cells(values)) else ()
        both = [(values[("mirror", *cell)], values[("uniform", *cell)]) for cell in cells]
        for name in names:
            if all(isinstance(of.get(name), int | float) for cell in both for of in cell):
                pairs = [(mirror[name], uniform[name]) for mirror, uniform in both]
                lines.append(f"| {score} | {name} | {_compared(pairs)} |")
    return "\n".join(lines) + "\n"


def _cells(runs: Mapping[tuple[Any, ...], Any]) -> list[list[Any]]:
    """The L0 and seed of each run (init, L0, seed) that both starts have."""
    return [cell for init, *cell in runs if init == "mirror" and ("uniform", *cell) in runs]


def _compared(pairs: list[tuple[float, float]]) -> str:
    """Both means, the number of cells, and how often the first is ahead."""
    means = " | ".join(f"{statistics.mean(values):.3f}" for values in zip(*pairs, strict=True))
    return f"{means} | {len(pairs)} | {sum(a > b for a, b in pairs)}"


def sets_table(records: list[dict[str, Any]]) -> str:
    """Each of sae-probes' data sets: the accuracy of a probe on the whole layer and on one latent, by start; tests.

    Read from SAEBench's own files, which lie in the cache of the machine that measured.
    """
    latent: dict[str, dict[tuple[Any, ...], float]] = {}  # data set → run → accuracy
    layer: dict[str, float | None] = {}
    for record in records:
        if record["score"] != "saebench_sae_probes" or record["status"] != "done":
            continue
        run = (record["init"], record["l0"], record["seed"])
        for path in record["details"]["results"]:
            for one in json.loads(Path(path).read_text())["eval_result_details"]:
                latent.setdefault(one["dataset_name"], {})[run] = one["sae_top_1_test_accuracy"]
                layer[one["dataset_name"]] = one.get("llm_test_accuracy")
    lines = ["| data set | whole layer | mirror | uniform | cells | mirror ahead |", "| --- " + "| ---: " * 5 + "|"]
    means: dict[str, tuple[float, ...]] = {}
    for name in sorted(latent, key=lambda name: -statistics.mean(latent[name].values())):
        pairs = [(latent[name][("mirror", *cell)], latent[name][("uniform", *cell)]) for cell in _cells(latent[name])]
        if pairs:
            means[name] = tuple(statistics.mean(values) for values in zip(*pairs, strict=True))
            on_layer = "" if (accuracy := layer[name]) is None else f"{accuracy:.3f}"
            lines.append(f"| {name} | {on_layer} | {_compared(pairs)} |")
    lines.append("")
    for label, chosen in (
        ("all sets", means),
        ("without agnews", [name for name in means if "agnews" not in name]),
        ("where a start reaches .6", [name for name in means if max(means[name]) >= 0.6]),
        ("where the whole layer reaches .7", [name for name in means if (layer[name] or 0) >= 0.7]),
    ):
        differences = [means[name][0] - means[name][1] for name in chosen]
        if len(differences) > 1 and (test := paired(differences))["interval_95"]:
            low, high = test["interval_95"]
            ahead, behind = (sum(sign * d > 1e-9 for d in differences) for sign in (1, -1))
            lines.append(
                f"- {label}: mirror − uniform = {test['mean_difference']:+.4f} over {test['n']} sets "
                f"(95 % interval {low:+.4f} to {high:+.4f}; "
                f"Wilcoxon p = {test['wilcoxon_p']:.2g}); ahead in {ahead}, behind in {behind}"
            )
    return "\n".join(lines) + "\n" if latent else ""


def _cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return "not asked"
    if record["status"] != "done":
        return record["status"]
    std = "" if record["std"] is None else f" ± {record['std']:.4f}"
    return f"{record['value']:.4f}{std} ({record['seconds']:.0f} s)"


def main(words: list[str]) -> None:
    options = dict(word.split("=", 1) for word in words)
    folder = Path(options.get("run_root", "runs")) / "quality"
    out = Path(options.get("out", HERE))
    if not all((folder / name).is_file() for name in ("quality.json", *FILES)):
        sys.exit(f"run_root={folder.parent}: nothing measured here; run python -m saemd.evaluate first")
    spread = json.loads((folder / "spread.json").read_text())
    records = json.loads((folder / "quality.json").read_text())
    try:
        sets = sets_table(records)
    except FileNotFoundError as error:
        remedy = "bring the cache back, or remove each run's quality/saebench_sae_probes.json and measure it again"
        sys.exit(f"run_root={folder.parent}: SAEBench's file {error.filename} is gone; {remedy}")
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(folder / name, out)
    if sets:
        (out / "data_sets.md").write_text(sets)
    lines = ",\n".join(json.dumps(shrunk(record), ensure_ascii=False) for record in records)
    (out / "quality.json").write_text(f"[\n{lines}\n]\n")
    text = tables(records, spread["tests"])
    (out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
