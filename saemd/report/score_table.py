"""The scores in the terminal: one row per score, start and target L0; then a row per test.

Like the comparison's table it is 100 columns wide, or wider where the figures need it.
"""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from saemd.quality.published import published_rows, remarks, titles
from saemd.quality.records import Record, reasons
from saemd.report.table import LABEL_WIDTH, number, set_width

COLUMNS = ["score", "init", "L0|target", "L0|reached", "mean", "std|seeds", "std|own", "seeds", "missing"]
TESTS = ["score", "starts", "difference", "95 % interval", "cells", "Wilcoxon|p", "paired t|p"]


def print_table(records: list[Record], summary: dict[str, Any], console: Console | None = None) -> None:
    """Print the scores; `summary` is `saemd.quality.spread.summary(records)`."""
    console = console or Console()
    _print(console, "Quality, larger is better", COLUMNS, table_rows(records, summary))
    tests = summary["tests"]
    if tests:
        title = "Do the starts differ? Paired over cells (target L0, seed)"
        _print(console, title, TESTS, test_rows(tests, titles(records)))
    for line in [*remarks(records), *test_remarks(tests), *missing(records)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print one table; a score's name is printed in its first row alone."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        words = column in ("score", "init", "starts", "missing")
        overflow: Any = "fold" if words else "ellipsis"
        table.add_column(
            column.replace("|", "\n"), justify="left" if words else "right", no_wrap=not words, overflow=overflow,
            min_width=8 if words else None, max_width=LABEL_WIDTH if words else None,
        )  # fmt: skip
    for place, row in enumerate(rows):
        same = place > 0 and rows[place - 1][0] == row[0]
        if place and not same:
            table.add_section()
        table.add_row("" if same else row[0], *row[1:])
    set_width(console, table)
    console.print(table)


def table_rows(records: list[Record], summary: dict[str, Any]) -> list[list[str]]:
    """Cells as text, in the order of `COLUMNS`."""
    cell_of = {(cell["score"], cell["init"], cell["l0"]): cell for cell in summary["cells"]}
    title_of = titles(records)
    rows = []
    for key in dict.fromkeys((record["score"], record["init"], record["l0"]) for record in records):
        of_cell = [record for record in records if (record["score"], record["init"], record["l0"]) == key]
        stds = [record["std"] for record in of_cell if record["std"] is not None]
        statuses = dict.fromkeys(record["status"] for record in of_cell if record["status"] != "done")
        cell = cell_of.get(key, {})
        rows.append(
            [
                title_of[key[0]],
                key[1],
                f"{key[2]:g}",
                number(cell.get("achieved_l0"), 1),
                number(cell.get("mean"), 4),
                number(cell.get("std"), 4),
                number(sum(stds) / len(stds) if stds else None, 4),
                ", ".join(str(seed) for seed in cell.get("seeds", []) if seed is not None) or "–",
                ", ".join(statuses),
            ]
        )
    return rows + published_rows(records)


def test_rows(tests: list[dict[str, Any]], title_of: dict[str, str]) -> list[list[str]]:
    """Cells as text, in the order of `TESTS`; `title_of` has each score's title."""
    rows = []
    for test in tests:
        interval = test["interval_95"]
        rows.append(
            [
                title_of[test["score"]],
                " − ".join(test["init"]),
                f"{test['mean_difference']:+.4f}",
                "–" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}",
                str(test["n"]),
                *("–" if test[key] is None else f"{test[key]:.3g}" for key in ("wilcoxon_p", "t_p")),
            ]
        )
    return rows


def test_remarks(tests: list[dict[str, Any]]) -> list[str]:
    """The remarks on these tests, each once."""
    return list(dict.fromkeys(test["remark"] for test in tests if test["remark"]))


def missing(records: list[Record]) -> list[str]:
    """Why scores are missing: a line for each score and reason."""
    lines = []
    for (score, reason), without in reasons(records).items():
        first = without[0]
        seed = "" if first["seed"] is None else f" seed={first['seed']}"
        whose = f"{len(without)} SAEs" if len(without) > 1 else f"init={first['init']} l0={first['l0']}{seed}"
        lines.append(f"{first['status']}: {score}, {whose}: {reason}")
    return lines
