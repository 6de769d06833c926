"""The summary over L0: similarity, drift and random floor in two panels, and two shares of latents in two more."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from saemd.report.style import APART, DRIFT, FLOOR, INK, Figure, new_figure, quiet, styles_of, target_axis
from saemd.report.table import shares_start
from saemd.stability.cells import cells
from saemd.stability.records import Record, label

PANELS = (
    ("decoder cosine (PW-MCC)", "mean_cos_dec", "drift_dec", "apart_dec"),
    ("encoder cosine", "mean_cos_enc", "drift_enc", "apart_enc"),
    ("same partner, share of latents", "same_match", None, None),
    ("shared, share of latents", "shared", None, None),
)

DOTS = 6  # pairs of one start and L0 that are drawn one by one

# At a single L0 there is no line to see, so drift and "if apart" get markers.
DASH: dict[str, Any] = {"marker": "_", "markersize": 16, "markeredgewidth": 1.6, "linestyle": ""}
CROSS: dict[str, Any] = {"marker": "x", "markersize": 8, "markeredgewidth": 1.6, "linestyle": ""}


def summary_figure(records: list[Record], columns: int = 2) -> Figure:
    """Four panels over the L0 target, one line per initialisation: the mean over its pairs, each of few pairs a dot."""
    styles = styles_of(label(record) for record in records)
    targets = sorted({record["l0"] for record in records})
    handles = [_handle(records, init, style) for init, style in styles.items()]
    drift_style, apart_style = (DRIFT, APART) if len(targets) > 1 else (DRIFT | DASH, APART | CROSS)
    handles.append(Line2D([], [], label="drift: cosine with the start", **drift_style))
    if any(record["apart_dec"] is not None or record["apart_enc"] is not None for record in records):
        handles.append(Line2D([], [], label="if apart: moved as far, unrelated", **apart_style))
    handles.append(Line2D([], [], label="random floor", **FLOOR))
    rows = 4 // columns
    legend_rows = -(-len(handles) // columns)
    bottom = 0.62 + 0.23 * legend_rows  # inches
    height = 2.75 * rows + bottom + 0.35
    figure = new_figure(4.5 * columns, height)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (title, key, drift, apart) in zip(grid.flat, PANELS, strict=True):
        quiet(axes)
        axes.set_title(title, fontsize=11, fontweight="bold", color=INK, loc="left")
        for place, (init, style) in enumerate(styles.items()):
            group = [record for record in records if label(record) == init]
            if len(targets) == 1:  # no lines to follow: side by side, or they would hide each other
                group = [{**record, "l0": record["l0"] * 2 ** (place - (len(styles) - 1) / 2)} for record in group]
            _line(axes, group, key, {**style, "linewidth": 2, "markersize": 6}, dots=True)
            if drift and apart:
                _line(axes, group, drift, {**drift_style, "color": style["color"]})
                _line(axes, group, apart, {**apart_style, "color": style["color"]})
        if drift:
            for floor in {record["random_floor"] for record in records}:
                axes.axhline(floor, **FLOOR)
        target_axis(axes, targets)
        axes.set_ylim(-0.02, 1.04)
    for axes in grid[-1]:
        axes.set_xlabel("target L0", fontsize=10.5, color=INK)
    if len(targets) == 1:
        spread = 2 ** (len(styles) / 2 + 0.5)
        grid[0, 0].set_xlim(targets[0] / spread, targets[0] * spread)
    margins = {"left": 0.5 / (4.5 * columns), "right": 1 - 0.15 / (4.5 * columns)}
    figure.subplots_adjust(top=1 - 0.35 / height, bottom=bottom / height, hspace=0.19, wspace=0.08, **margins)
    place = {"loc": "lower left", "bbox_to_anchor": (margins["left"] - 0.01, 0.005), "frameon": False}
    figure.legend(handles=handles, ncols=columns, fontsize=10, labelcolor=INK, handlelength=2.6, **place)
    return figure


def _line(axes: Axes, records: list[Record], key: str, style: dict[str, Any], *, dots: bool = False) -> None:
    """The mean over the pairs of each L0; with `dots` every pair is a dot where there are several.

    Of more than `DOTS` pairs, a bar shows the interval over seeds instead.
    """
    values: dict[float, list[float]] = {}
    for record in records:
        if record[key] is not None:
            values.setdefault(record["l0"], []).append(record[key])
    targets = sorted(values)
    means = [float(np.mean(values[l0])) for l0 in targets]
    axes.plot(targets, means, **style)
    if not dots:
        return
    for cell in cells([record for record in records if len(values.get(record["l0"], [])) > DOTS]):
        if key in cell and cell[key]["low"] is not None:
            bar = {"color": style["color"], "linewidth": 5, "alpha": 0.3, "solid_capstyle": "butt"}
            axes.plot([cell["l0"]] * 2, [cell[key]["low"], cell[key]["high"]], **bar)
    for l0 in targets:
        if 1 < len(values[l0]) <= DOTS:
            axes.scatter([l0] * len(values[l0]), values[l0], s=12, color=style["color"], alpha=0.5, linewidths=0)


def _handle(records: list[Record], init: str, style: dict[str, str]) -> Line2D:
    shared = any(shares_start(record) for record in records if label(record) == init)
    name = f"{init} (seeds share their start)" if shared else init
    return Line2D([], [], linewidth=2, markersize=6, label=name, **style)  # type: ignore[arg-type]
