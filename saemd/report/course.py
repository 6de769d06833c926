"""Agreement against tokens: the share of latents that return at each snapshot, above the FVU on the same axis.

One line per start, one panel per L0 (at most `PANELS`). At 0 tokens: the agreement of the starts, as a hollow marker.
"""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from saemd.report.style import GREY, INK, Figure, evenly, new_figure, quiet, styles_of
from saemd.stability.cells import cells
from saemd.stability.records import Record

PANELS = 5
TICKS = 6


def course_figure(records: list[Record], columns: int = PANELS) -> Figure:
    """Of snapshots and ends (see `figures.course_records`); with `columns=1` the panels lie one below the other."""
    rows = cells(records)
    styles = styles_of(str(cell["label"]) for cell in rows)
    targets = evenly(sorted({cell["l0"] for cell in rows}), PANELS)
    columns = min(columns, len(targets))
    lines = -(-len(targets) // columns)
    width = max(2.75 * columns + 0.5, 4.6)  # inches, as all sizes here
    in_row = max(1, int(width // 3.2))
    below, above, each = 0.75 + 0.23 * -(-len(styles) // in_row), 0.35, 3.5
    height = each * lines + below + above
    figure = new_figure(width, height)
    grid = figure.add_gridspec(
        lines, columns, left=0.55 / width, right=1 - 0.12 / width, top=1 - above / height, bottom=below / height,
        wspace=0.12, hspace=0.28,
    )  # fmt: skip
    fvus = [cell["fvu"] for cell in rows if cell["tokens"]]
    highest = 1.1 * max(fvus) if min(fvus) > 1 else min(1.05, 1.1 * max(fvus))  # above 1 nothing is reconstructed yet
    for at, l0 in enumerate(targets):
        inner = grid[at // columns, at % columns].subgridspec(2, 1, height_ratios=[2, 1], hspace=0.08)
        shared, fvu = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
        of_l0 = [cell for cell in rows if cell["l0"] == l0]
        first = min((cell["tokens"] for cell in of_l0 if cell["tokens"]), default=1)
        for init, style in styles.items():
            _curve(shared, fvu, [cell for cell in of_l0 if cell["label"] == init], first / 2, style)
        for axes in (shared, fvu):
            quiet(axes)
            _token_axis(axes, sorted({cell["tokens"] for cell in of_l0 if cell["tokens"]}), first / 2)
        shared.set_ylim(-0.02, 1.04)
        fvu.set_ylim(0, highest)
        shared.tick_params(labelbottom=False)
        shared.set_title(f"L0 = {l0:g}", fontsize=11, fontweight="bold", color=INK, loc="left")
        if at % columns == 0:
            shared.set_ylabel("shared", color=INK, fontsize=10)
            fvu.set_ylabel("FVU", color=INK, fontsize=10)
        else:
            for axes in (shared, fvu):
                axes.tick_params(labelleft=False)
        if at // columns == lines - 1:
            fvu.set_xlabel("tokens", color=INK, fontsize=10)
    together = {cell["label"] for cell in rows if cell["same_start"]}
    names = {init: f"{init} (seeds share their start)" if init in together else init for init in styles}
    handles = [Line2D([], [], linewidth=1.8, markersize=5, label=names[init], **styles[init]) for init in styles]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.1 / width, 0.005), "frameon": False}
    figure.legend(handles=handles, ncols=in_row, fontsize=9.5, labelcolor=INK, handlelength=2.6, **place)
    return figure


def _curve(shared: Axes, fvu: Axes, of_start: list[Record], x_start: float, style: dict[str, Any]) -> None:
    """The line of one start; `x_start` is where 0 tokens lie on the logarithmic axis."""
    along = sorted((cell for cell in of_start if cell["tokens"]), key=lambda cell: cell["tokens"])
    if not along:
        return
    x, y = [cell["tokens"] for cell in along], [cell["shared"]["mean"] for cell in along]
    shared.plot(x, y, linewidth=1.8, markersize=5, **style)
    bars = [(t, c["shared"]["low"], c["shared"]["high"]) for t, c in zip(x, along, strict=True)]
    if all(low is not None for _, low, _ in bars):
        tokens, low, high = zip(*bars, strict=True)
        shared.fill_between(tokens, low, high, color=style["color"], alpha=0.15, linewidth=0)
    kept = [cell["shared"]["mean"] for cell in of_start if cell["tokens"] == 0]
    drawn = [cell["untrained_shared"]["mean"] for cell in along if "untrained_shared" in cell]
    if at_start := kept or drawn:
        shared.plot([x_start, x[0]], [at_start[0], y[0]], linewidth=1, linestyle=":", color=style["color"])
        hollow = {**style, "markerfacecolor": "white", "linestyle": "", "markersize": 6}
        shared.plot([x_start], [at_start[0]], zorder=3, **hollow)
    fvu.plot(x, [cell["fvu"] for cell in along], linewidth=1.8, markersize=4, **style)


def _token_axis(axes: Axes, tokens: list[int], x_start: float) -> None:
    axes.set_xscale("log")
    labelled = evenly(tokens, TICKS - 1)
    axes.xaxis.set_major_locator(FixedLocator([x_start, *labelled]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(["0", *(short(n) for n in labelled)], fontsize=8.5)
    axes.set_xlim(x_start / 1.3, max(tokens, default=2 * x_start) * 1.3)
    axes.axvline(x_start * math.sqrt(2), color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))


def short(n: float) -> str:
    """A number of tokens as on an axis: 250k, 1M, 1.5M, 2B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g}{letter}"
    return f"{n:g}"
