"""Figures 3 and 4 of the paper as PNG: every score over the measured L0, by start (3) and by seed (4).

One panel per score. Importing this file imports matplotlib.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saemd.files import replacing
from saemd.quality.records import Record
from saemd.quality.spread import cells
from saemd.report.score_panels import colours_of, draw_panels, handle, line, marker

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

    def draw(axes: Axes, of_score: list[Record], colours: dict[str, str]) -> None:
        for init, colour in colours.items():
            of_start = [cell for cell in cells(of_score) if cell["init"] == init]
            own = {(r["init"], r["l0"]): r["std"] for r in of_score if r["status"] == "done"}
            stds = [own[init, cell["l0"]] if cell["std"] is None else cell["std"] for cell in of_start]
            points = [(c["achieved_l0"], c["mean"], s) for c, s in zip(of_start, stds, strict=True)]
            line(axes, points, color=colour, marker=marker(colours, init))

    colours = colours_of(records)
    handles = [handle(init, color=colour, marker=marker(colours, init)) for init, colour in colours.items()]
    alone = {cell["std"] is None for cell in cells(records)}
    own = "the score's own standard deviation"
    caption = f"bars: {own}" if alone == {True} else "bars: one standard deviation over seeds"
    if alone == {True, False}:
        caption += f" (of a single seed: {own})"
    return draw_panels(records, columns, draw, handles, caption)


def figure4(records: list[Record], columns: int = COLUMNS) -> Figure:
    """Each seed a line, bars of one standard deviation of the score's own."""
    seeds = sorted({record["seed"] for record in records if record["seed"] is not None})
    style = {seed: LINES[place % len(LINES)] for place, seed in enumerate(seeds)}

    def draw(axes: Axes, of_score: list[Record], colours: dict[str, str]) -> None:
        for init, colour in colours.items():
            for seed in [*seeds, None]:
                points = [
                    (r["achieved_l0"], r["value"], r["std"])
                    for r in of_score
                    if r["status"] == "done" and (r["init"], r["seed"]) == (init, seed)
                ]
                dashes = style.get(seed, "-")
                line(axes, sorted(points), color=colour, marker=marker(colours, init), linestyle=dashes)

    colours = colours_of(records)
    pairs = dict.fromkeys((record["init"], record["seed"]) for record in records)
    handles = [
        handle(
            init if seed is None else f"{init}, seed {seed}",
            color=colours[init],
            marker=marker(colours, init),
            linestyle=style.get(seed, "-"),
        )
        for init, seed in pairs
    ]
    return draw_panels(records, columns, draw, handles, "bars: one standard deviation of the score's own")
