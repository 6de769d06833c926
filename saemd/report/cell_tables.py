"""Tables with one row per start and L0: means over the pairs of seeds, with intervals."""

from collections.abc import Callable

from saemd.report import html
from saemd.report.table import number, percent, target
from saemd.stability.cells import cells
from saemd.stability.records import Record

Show = Callable[[float | None], str]


def cell_table(rows: list[Record]) -> str:
    """The main figures of `saemd.stability.cells.cells`; an interval stands under its mean."""
    head = ["init", "L0|target", "seeds|pairs", "shared", "shared|of alive", "shared|by FVU", "same|partner"]
    head += ["cos dec|PW-MCC", "cos enc", "drift|dec", "if apart|dec", "floor", "alive|in both", "L0|reached", "FVU"]
    shares = ("shared", "shared_alive", "shared_ablation", "same_match")
    body = [
        [
            *_names(row),
            f"{row['seeds']}|{row['pairs']}",
            *(_with_interval(row, name, percent) for name in shares),
            *(_with_interval(row, name, number) for name in ("mean_cos_dec", "mean_cos_enc")),
            *(_mean(row, name, number) for name in ("drift_dec", "apart_dec", "random_floor")),
            percent(row["alive"]),
            number(row["achieved_l0"], 1),
            number(row["fvu"], 3),
        ]
        for row in rows
    ]
    return html.table(head, body, group=True)


def learned_table(rows: list[Record]) -> str:
    """Agreement before training, of what was learned, and of the subspaces of what does not return; "" without any."""
    names = ("untrained_shared", "learned_dec", "subspace_overlap")
    if not any(name in row for row in rows for name in names):
        return ""
    head = ["init", "L0|target", "shared|untrained", "shared|trained", "learned|cos dec", "learned|cos enc"]
    head += ["learned, alive|cos dec", "activations|alive", "activations|shared", "lost subspace|overlap"]
    head.append("lost subspace|chance")
    shown = ("learned_dec", "learned_enc", "learned_dec_alive", "correlation_alive", "correlation_shared")
    body = [
        [
            *_names(row),
            _mean(row, "untrained_shared", percent),
            _with_interval(row, "shared", percent),
            *(_with_interval(row, name, number) for name in (*shown, "subspace_overlap")),
            _mean(row, "subspace_floor", number),
        ]
        for row in rows
    ]
    return html.table(head, body, group=True)


def course_table(records: list[Record]) -> str:
    """One row per start, L0 and snapshot."""
    head = ["init", "L0|target", "tokens", "shared", "shared|of alive", "same|partner", "cos dec", "cos enc"]
    head += ["drift|dec", "learned|cos dec", "FVU"]
    ordered = sorted(cells(records), key=lambda row: (row["label"], row["l0"], row["tokens"]))
    body = [
        [
            *_names(row),
            f"{row['tokens']:,}",
            *(_with_interval(row, name, percent) for name in ("shared", "shared_alive", "same_match")),
            *(_mean(row, name, number) for name in ("mean_cos_dec", "mean_cos_enc", "drift_dec", "learned_dec")),
            number(row["fvu"], 3),
        ]
        for row in ordered
    ]
    return html.table(head, body, group=True)


def _names(row: Record) -> list[str]:
    return [row["label"] + (" *" if row["same_start"] else ""), target(row["l0"])]


def _mean(row: Record, name: str, show: Show) -> str:
    return show(row[name]["mean"] if name in row else None)


def _with_interval(row: Record, name: str, show: Show) -> str:
    """The mean, and behind a bar its interval, where there is one: `16.0%|14.6–18.4`."""
    low, high = (row[name]["low"], row[name]["high"]) if name in row else (None, None)
    interval = "" if low is None or high is None else f"|{show(low)}–{show(high)}".replace("%", "")
    return _mean(row, name, show) + interval
