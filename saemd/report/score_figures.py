"""Figures 3 and 4 of the paper as PNG: every score over the measured L0, by start (3) and by seed (4).

One panel per score.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saemd.files import replacing
from saemd.quality.published import remarks, titles
from saemd.quality.records import Record
from saemd.quality.spread import cells
from saemd.report.style import GREY, INK, WARNING, new_figure, quiet, styles_of, target_axis

DOTS_PER_INCH = 150
COLUMNS = 4
WIDEST = 25  # characters of a title that fit over a panel in full size
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


def draw_panels(
    records: list[Record], columns: int, draw: Callable[[Axes, list[Record]], None], handles: list[Any], caption: str
) -> Figure:
    """One panel for each score, filled by `draw(axes, its records)`; a panel without a value says why."""
    panels = titles(records)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width = max(3.1 * columns, 4.6)
    per_row = max(1, int(width // 2.2))
    notes = textwrap.wrap("; ".join(["larger is better", caption, *remarks(records)]), int(13 * width))
    below = 0.05 + 0.17 * len(notes)  # inches, as all heights here
    bottom = 0.55 + below + 0.22 * -(-len(handles) // per_row)
    height = 2.6 * rows + bottom + 0.3
    figure = new_figure(width, height)
    grid = figure.subplots(rows, columns, squeeze=False)
    targets = sorted({record["l0"] for record in records})
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (score, title) in zip(grid.flat, panels.items(), strict=False):
        of_score = [record for record in records if record["score"] == score]
        quiet(axes)
        axes.set_title(title, fontsize=min(11, 11 * WIDEST / len(title)), fontweight="bold", color=INK, loc="left")
        if any(record["status"] == "done" for record in of_score):
            draw(axes, of_score)
            target_axis(axes, targets)
            axes.set_xlabel("L0", fontsize=10, color=INK)
            axes.margins(x=0.07, y=0.1)
            low, high = axes.get_xlim()
            axes.set_xlim(min(low, targets[0] / 1.05), max(high, targets[-1] * 1.05))  # every target's tick is in view
        _note_missing(axes, of_score)
    left, right = 0.62 / width, 1 - 0.12 / width
    spaces = {"hspace": 0.42, "wspace": 0.3 if columns > 1 else 0}
    figure.subplots_adjust(left=left, right=right, top=1 - 0.35 / height, bottom=bottom / height, **spaces)
    place = {"loc": "lower left", "bbox_to_anchor": (0.1 / width, below / height), "frameon": False}
    figure.legend(handles=handles, ncols=per_row, fontsize=9.5, labelcolor=INK, handlelength=2.6, **place)
    figure.text(0.2 / width, 0.09 / height, "\n".join(notes), fontsize=9, color=GREY)
    return figure


def _note_missing(axes: Axes, of_score: list[Record]) -> None:
    """Write into the panel why it is empty, or how many of its points are missing."""
    missing = [record for record in of_score if record["status"] != "done"]
    if not missing:
        return
    causes = dict.fromkeys((record["status"], record["reason"]) for record in missing)
    status, reason = next(iter(causes))
    colour = WARNING if any(cause == "failed" for cause, _ in causes) else GREY
    if len(missing) < len(of_score):
        text = ", ".join(
            f"{count} of {len(of_score)} {status}"
            for status in ("failed", "not applicable")
            if (count := sum(record["status"] == status for record in missing))
        )
        axes.text(0.98, 0.03, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5, color=colour)
        return
    axes.set_xticks([])
    axes.set_yticks([])
    more = f" (and {len(causes) - 1} other reasons)" if len(causes) > 1 else ""
    lines = textwrap.wrap(textwrap.shorten(reason + more, 190, placeholder=" …"), 36)
    text = "\n".join([status, *lines])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=8.5, color=colour)


def line(axes: Axes, points: list[tuple[float, float, float | None]], **style: Any) -> None:
    """A line through points (x, y, half bar); a half bar of None is not drawn."""
    if points:
        x, y, bars = zip(*sorted(points), strict=True)
        heights = [0.0 if bar is None else bar for bar in bars]
        axes.errorbar(x, y, yerr=heights, linewidth=1.8, markersize=5, capsize=2.5, elinewidth=1.1, **style)


def handle(label: str, **style: Any) -> Any:
    return Line2D([], [], linewidth=1.8, markersize=5, label=label, **style)
