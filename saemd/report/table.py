"""The comparison in the terminal: 100 columns wide, or wider where the figures need it."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from saemd.stability.cells import cells
from saemd.stability.records import Record, label, seeds
from saemd.stability.root import Outcome
from saemd.stability.siblings import NAMED

WIDTH = 100
LABEL_WIDTH = 24  # longer labels are folded
KEYS = ("mean_cos_dec", "drift_dec", "mean_cos_enc", "drift_enc", "random_floor", "same_match", "shared")


def print_outcome(outcome: Outcome, run_root: Path) -> None:
    """Print the table, the runs that were left out, and the paths of the results."""
    for run in outcome.runs if outcome.across == NAMED else ():
        print(f"{run.init}        {run.config[NAMED]}")
    if outcome.records:
        print_table(outcome.records)
    else:
        found = f"{len(outcome.runs)} finished {'run' if len(outcome.runs) == 1 else 'runs'}"
        if outcome.across:
            print(f"{run_root}: {found}, but no two of them differ in {outcome.across} alone: nothing to compare.")
        else:
            print(f"{run_root}: {found}, but no two of them are siblings yet")
            print("(the same init, L0 and configuration under two seeds), so there is nothing to compare.")
    for line in outcome.broken + outcome.remarks:
        print(f"left out: {line}")
    if outcome.runs:
        print(f"table    {outcome.folder / 'stability.json'}")
        if outcome.records:
            print(f"figures  {outcome.folder / 'figures'}")
        print(f"report   {outcome.folder / 'report.html'}")


def print_table(records: list[Record], console: Console | None = None) -> None:
    """Print the records of `compare_root`, each pair a row, or, where a cell has several pairs, each cell a row.

    A star marks seeds that share their starting weights. `L0 reached` and `FVU` are the mean of the seeds; `alive` is
    the share of latents alive in both. Behind a mean over pairs stands its standard deviation.
    """
    console = console or Console()
    key = "".join(records[0].get("across", {})) if records else ""
    title = f"Similarity across {key}" if key else "Stability over seeds"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("init", overflow="fold", min_width=8, max_width=LABEL_WIDTH)
    rows = cells(records)
    is_single = all(row["pairs"] == 1 for row in rows)
    names = [
        "L0",
        "seeds" if is_single else "seeds\n(pairs)",
        "cos\ndec",
        "drift\ndec",
        "cos\nenc",
        "drift\nenc",
        "floor",
    ]
    for name in [*names, "same\nmatch", "shared", "alive", "L0\nreached", "FVU"]:
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for name, cells_of_row in map(_row, records) if is_single else map(_cell_row, rows):
        if previous not in (None, name):
            table.add_section()
        previous = name
        table.add_row(name, *cells_of_row)
    set_width(console, table)
    console.print(table)
    if any(shares_start(record) for record in records):
        console.print(
            "* These seeds start from the same weights: that they agree says nothing about convergence. "
            "Drift is the cosine with the start: at 1.00 nothing has moved.",
            style="yellow",
        )


def set_width(console: Console, table: Table) -> None:
    """Set the width to `WIDTH` columns, or to what the table needs to cut no figure; a terminal keeps its own."""
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = min(max(WIDTH, needed), console.width if console.is_terminal else 1000)


def shares_start(record: Record) -> bool:
    """Do both seeds start from the same decoder or the same encoder weights?"""
    return bool(record["same_start_dec"] or record["same_start_enc"])


def number(value: float | None, digits: int = 2) -> str:
    """A figure as text; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as text; a dash for None."""
    return "–" if share is None else f"{share:.{digits}%}"


def count(value: float | None) -> str:
    """A whole number as text; a dash for None."""
    return "–" if value is None else f"{value:,.0f}"


def target(l0: float | None) -> str:
    """A target L0 as text; a dash for None."""
    return "–" if l0 is None else f"{l0:g}"


def _row(record: Record) -> tuple[str, list[str]]:
    star = " *" if shares_start(record) else ""
    (cell,) = cells([record])
    return label(record), [
        target(record["l0"]),
        seeds(record, "-") + star,
        *(number(record[key]) for key in KEYS),
        percent(cell["alive"], 0),
        number(cell["achieved_l0"], 0),
        number(cell["fvu"], 3),
    ]


def _cell_row(cell: Record) -> tuple[str, list[str]]:
    star = " *" if cell["same_start"] else ""
    means = []
    for key in KEYS:
        found = cell.get(key, {"mean": None, "std": None})
        spread = f" ±{found['std']:.2f}" if found["std"] is not None and key in ("same_match", "shared") else ""
        means.append(number(found["mean"]) + spread)
    return cell["label"], [
        target(cell["l0"]),
        f"{cell['seeds']} ({cell['pairs']}){star}",
        *means,
        percent(cell["alive"], 0),
        number(cell["achieved_l0"], 0),
        number(cell["fvu"], 3),
    ]
