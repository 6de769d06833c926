"""Figures 3 and 4 of the paper as PNG: every score over the measured L0, by start (3) and by seed (4).

One panel per score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saemd.files import replacing
from saemd.quality.records import Record
from saemd.quality.spread import cells
from saemd.report.score_panels import draw_panels, handle, line
from saemd.report.style import styles_of

DOTS_PER_INCH = 150
COLUMNS = 4
LINES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))  # one per seed


def draw_figures(folder: Path, records: list[Record]) -> None:
    """`figure3.png`, `figure4.png`, and `…_narrow.png` of both for phones. Nothing without a record."""
    if not records:
        return
    for name, make in (("figure3", figure3), ("figure4", figure4)):
        for suffix, columns in (("", COLUMNS), ("_narrow", 1)):
            with replacing(folder / f"{name}{suffix}.png") as aside:
                make(records, columns).savefig(aside, format="png", dpi=DOTS_PER_INCH)


def figure3(records: list[Record], columns: int = COLUMNS) -> Figure:
    """Mean over seeds, bars of one standard deviation over seeds; of a single seed, the score's own."""
    styles = styles_of(record["init"] for record in records)

    def draw(axes: Axes, of_score: list[Record]) -> None:
        for init, style in styles.items():
            of_start = [cell for cell in cells(of_score) if cell["init"] == init]
            own = {(r["init"], r["l0"]): r["std"] for r in of_score if r["status"] == "done"}
            stds = [own[init, cell["l0"]] if cell["std"] is None else cell["std"] for cell in of_start]
            line(axes, [(c["achieved_l0"], c["mean"], s) for c, s in zip(of_start, stds, strict=True)], **style)

    handles = [handle(init, **style) for init, style in styles.items()]
    alone = {cell["std"] is None for cell in cells(records)}
    own = "the score's own standard deviation"
    caption = f"bars: {own}" if alone == {True} else "bars: one standard deviation over seeds"
    if alone == {True, False}:
        caption += f" (of a single seed: {own})"
    return draw_panels(records, columns, draw, handles, caption)


def figure4(records: list[Record], columns: int = COLUMNS) -> Figure:
    """Each seed a line, bars of one standard deviation of the score's own."""
    styles = styles_of(record["init"] for record in records)
    seeds = sorted({record["seed"] for record in records if record["seed"] is not None})
    dashes: dict[int | None, Any] = {seed: LINES[place % len(LINES)] for place, seed in enumerate(seeds)} | {None: "-"}

    def draw(axes: Axes, of_score: list[Record]) -> None:
        for init, style in styles.items():
            for seed in dashes:
                points = [
                    (r["achieved_l0"], r["value"], r["std"])
                    for r in of_score
                    if r["status"] == "done" and (r["init"], r["seed"]) == (init, seed)
                ]
                line(axes, points, linestyle=dashes[seed], **style)

    handles = [
        handle(init if seed is None else f"{init}, seed {seed}", linestyle=dashes[seed], **styles[init])
        for init, seed in dict.fromkeys((record["init"], record["seed"]) for record in records)
    ]
    return draw_panels(records, columns, draw, handles, "bars: one standard deviation of the score's own")
