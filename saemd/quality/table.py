"""The scores in the terminal, 100 columns wide at most: one row per score, start and target L0; then the tests."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from saemd.quality.published import published_rows, remarks, titles
from saemd.quality.records import Record
from saemd.stability.table import WIDTH, number


def print_table(records: list[Record], summary: dict[str, Any], console: Console | None = None) -> None:
    """`summary` is `saemd.quality.spread.summary(records)`."""
    console = console or Console()
    if console.width > WIDTH or not console.is_terminal:
        console.width = WIDTH
    table = Table(title="Quality, larger is better", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("score", overflow="fold", min_width=12)
    table.add_column("init", overflow="fold", min_width=8)
    for name in ("L0\ntarget", "L0", "mean", "std\nseeds", "std\nown", "seeds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("missing", overflow="fold")
    rows = table_rows(records, summary)
    for place, row in enumerate(rows):
        if place and rows[place - 1][0] != row[0]:
            table.add_section()
        table.add_row(*row)
    console.print(table)
    for line in [*remarks(records), *test_lines(summary["tests"])]:
        console.print(line, highlight=False)


def table_rows(records: list[Record], summary: dict[str, Any]) -> list[list[str]]:
    """Cells as text: score, start, target L0, L0, mean, std over seeds, mean own std, seeds, what is missing, why."""
    found = {(cell["score"], cell["init"], cell["l0"]): cell for cell in summary["cells"]}
    shown = titles(records)
    rows = []
    for key in dict.fromkeys((record["score"], record["init"], record["l0"]) for record in records):
        mine = [record for record in records if (record["score"], record["init"], record["l0"]) == key]
        own = [record["std"] for record in mine if record["std"] is not None]
        lacking = dict.fromkeys(f"{r['status']}: {r['reason']}" for r in mine if r["status"] != "done")
        cell = found.get(key, {})
        rows.append(
            [
                shown[key[0]],
                key[1],
                f"{key[2]:g}",
                number(cell.get("achieved_l0"), 1),
                number(cell.get("mean"), 4),
                number(cell.get("std"), 4),
                number(sum(own) / len(own) if own else None, 4),
                ", ".join(str(seed) for seed in cell.get("seeds", []) if seed is not None) or "–",
                "; ".join(lacking),
            ]
        )
    return rows + published_rows(records)


def test_lines(tests: list[dict[str, Any]]) -> list[str]:
    """One sentence per test."""
    lines = []
    for test in tests:
        a, b = test["init"]
        cells = f"{test['n']} cell{'s' * (test['n'] != 1)} (L0, seed)"
        head = f"{test['score']}: {a} − {b} = {test['mean_difference']:+.4f} over {cells}"
        interval, parts = test["interval_95"], []
        if interval is not None:
            parts.append(f"95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}")
        parts += [f"{name} p = {test[key]:.3g}" for name, key in TESTS if test[key] is not None]
        lines.append(f"{head}: {'; '.join([*parts, test['remark']] if test['remark'] else parts)}")
    return lines


TESTS = (("Wilcoxon", "wilcoxon_p"), ("paired t", "t_p"))
