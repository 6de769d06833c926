"""The summary over L0: similarity, drift and random floor in two panels, and two shares of latents in two more."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from saemd.report.style import APART, DRIFT, FLOOR, INK, MARKERS, SERIES, Figure, new_figure, quiet
from saemd.report.table import shares_start
from saemd.stability.records import Record, label

PANELS = (
    ("decoder cosine (PW-MCC)", "mean_cos_dec", "drift_dec", "apart_dec"),
    ("encoder cosine", "mean_cos_enc", "drift_enc", "apart_enc"),
    ("same partner, share of latents", "same_match", None, None),
    ("shared, share of latents", "shared", None, None),
)

# At a single L0 there is no line to see, so drift and "if apart" get markers.
DASH: dict[str, Any] = {"marker": "_", "markersize": 16, "markeredgewidth": 1.6, "linestyle": ""}
CROSS: dict[str, Any] = {"marker": "x", "markersize": 8, "markeredgewidth": 1.6, "linestyle": ""}


def summary_figure(records: list[Record], columns: int = 2) -> Figure:
    """Four panels over the L0 target, one line per initialisation: the mean over its pairs, each pair a dot."""
    inits = list(dict.fromkeys(label(record) for record in records))
    targets = sorted({record["l0"] for record in records})
    handles = [_handle(records, init, place) for place, init in enumerate(inits)]
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
        for place, init in enumerate(inits):
            group = [record for record in records if label(record) == init]
            if len(targets) == 1:  # no lines to follow: side by side, or they would hide each other
                group = [{**record, "l0": record["l0"] * 2 ** (place - (len(inits) - 1) / 2)} for record in group]
            colour = SERIES[place % len(SERIES)]
            _line(axes, group, key, MARKERS[place % len(MARKERS)], {"color": colour, "linewidth": 2, "markersize": 6})
            if drift and apart:
                _line(axes, group, drift, None, {**drift_style, "color": colour})
                _line(axes, group, apart, None, {**apart_style, "color": colour})
        if drift:
            for floor in {record["random_floor"] for record in records}:
                axes.axhline(floor, **FLOOR)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(targets))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([str(target) for target in targets])
        axes.set_ylim(-0.02, 1.04)
    for axes in grid[-1]:
        axes.set_xlabel("target L0", fontsize=10.5, color=INK)
    if len(targets) == 1:
        spread = 2 ** (len(inits) / 2 + 0.5)
        grid[0, 0].set_xlim(targets[0] / spread, targets[0] * spread)
    margins = {"left": 0.5 / (4.5 * columns), "right": 1 - 0.15 / (4.5 * columns)}
    figure.subplots_adjust(top=1 - 0.35 / height, bottom=bottom / height, hspace=0.19, wspace=0.08, **margins)
    place = {"loc": "lower left", "bbox_to_anchor": (margins["left"] - 0.01, 0.005), "frameon": False}
    figure.legend(handles=handles, ncols=columns, fontsize=10, labelcolor=INK, handlelength=2.6, **place)
    return figure


def _line(axes: Axes, records: list[Record], key: str, marker: str | None, style: dict[str, object]) -> None:
    """The mean over the pairs of each L0; every pair a dot where there are several and a marker is given."""
    values: dict[float, list[float]] = {}
    for record in records:
        if record[key] is not None:
            values.setdefault(record["l0"], []).append(record[key])
    targets = sorted(values)
    means = [float(np.mean(values[l0])) for l0 in targets]
    axes.plot(targets, means, **({"marker": marker} | style))  # type: ignore[arg-type]
    for l0 in targets:
        if marker and len(values[l0]) > 1:
            axes.scatter([l0] * len(values[l0]), values[l0], s=12, color=str(style["color"]), alpha=0.5, linewidths=0)


def _handle(records: list[Record], init: str, place: int) -> Line2D:
    shared = any(shares_start(record) for record in records if label(record) == init)
    name = f"{init} (seeds share their start)" if shared else init
    colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
    return Line2D([], [], color=colour, marker=marker, linewidth=2, markersize=6, label=name)
