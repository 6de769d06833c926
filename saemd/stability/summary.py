"""The summary over L0: similarity beside drift and random floor, and the shares of matched and shared latents."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from saemd.stability.records import Record
from saemd.stability.style import DASHED, DOTTED, GREY, INK, MARKERS, SERIES, Figure, new_figure, quiet
from saemd.stability.table import shares_start

PANELS = (
    ("decoder cosine (PW-MCC)", "mean_cos_dec", "drift_dec"),
    ("encoder cosine", "mean_cos_enc", "drift_enc"),
    ("same partner, share of latents", "same_match", None),
    ("shared, share of latents", "shared", None),
)


def summary_figure(records: list[Record]) -> Figure:
    """Four panels over the L0 target, one line per initialisation: the mean over its pairs, each pair a dot."""
    figure = new_figure(9.2, 7.6)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    inits = list(dict.fromkeys(record["init"] for record in records))
    targets = sorted({record["l0"] for record in records})
    for axes, (title, key, drift) in zip(grid.flat, PANELS, strict=True):
        quiet(axes)
        axes.set_title(title, fontsize=11, fontweight="bold", color=INK, loc="left")
        for place, init in enumerate(inits):
            mine = [record for record in records if record["init"] == init]
            _line(axes, mine, key, SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)])
            if drift:
                _line(axes, mine, drift, SERIES[place % len(SERIES)], None)
        if drift:
            for floor in {record["random_floor"] for record in records}:
                axes.axhline(floor, color=GREY, **DOTTED)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(targets))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([str(target) for target in targets])
        axes.set_ylim(-0.02, 1.04)
    for axes in grid[1]:
        axes.set_xlabel("target L0", fontsize=10.5, color=INK)
    if len(targets) == 1:
        grid[0, 0].set_xlim(targets[0] / 2, targets[0] * 2)
    handles = [_handle(records, init, place) for place, init in enumerate(inits)]
    handles.append(Line2D([], [], color=INK, label="drift: cosine with the start", **DASHED))
    handles.append(Line2D([], [], color=GREY, label="random floor", **DOTTED))
    rows = -(-len(handles) // 3)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.955, bottom=0.105 + 0.033 * rows, hspace=0.17, wspace=0.07)
    figure.legend(handles=handles, loc="lower center", ncols=min(3, len(handles)), frameon=False, fontsize=10)
    return figure


def _line(axes: Axes, records: list[Record], key: str, colour: str, marker: str | None) -> None:
    """Mean over the pairs of each L0; a dashed line without markers for drift."""
    values: dict[float, list[float]] = {}
    for record in records:
        if record[key] is not None:
            values.setdefault(record["l0"], []).append(record[key])
    targets = sorted(values)
    means = [sum(values[l0]) / len(values[l0]) for l0 in targets]
    if marker is None:
        axes.plot(targets, means, color=colour, marker="_", alpha=0.9, **DASHED)
        return
    axes.plot(targets, means, color=colour, linewidth=2, marker=marker, markersize=6)
    for l0 in targets:
        if len(values[l0]) > 1:
            axes.scatter([l0] * len(values[l0]), values[l0], s=10, color=colour, alpha=0.5, linewidths=0)


def _handle(records: list[Record], init: str, place: int) -> Line2D:
    shared = any(shares_start(record) for record in records if record["init"] == init)
    label = f"{init} (seeds share their start)" if shared else init
    colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
    return Line2D([], [], color=colour, marker=marker, linewidth=2, markersize=6, label=label)
