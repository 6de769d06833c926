"""Figure 2 of the paper: each latent at (C^dec_{iσ(i)}, C^enc_{iπ(i)}), blue where π(i) = σ(i), orange where not.

Added to the paper's figure: the drift from the start and the random floor as lines, and, where the seeds share their
start, a cross at the cosines that unrelated movement would have left (`apart_*`) and a remark.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from saemd.report.style import BLUE, DRIFT, FLOOR, GREY, INK, ORANGE, WARNING, Figure, new_figure, quiet
from saemd.report.table import number, shares_start
from saemd.stability.records import Record, is_named, label, seeds

Points = tuple[np.ndarray, np.ndarray, np.ndarray]  # cos_dec, cos_enc float32 [F]; same bool [F]

LIMITS = (-0.1, 1.05)
APART_POINT: dict[str, Any] = {"marker": "x", "markersize": 8, "markeredgewidth": 2, "color": INK, "linestyle": ""}
GRID_DOTS = 20_000  # more would make a PNG of several MB
BINS = np.linspace(*LIMITS, 70)


def pair_figure(record: Record, points: Points) -> Figure:
    """One pair of seeds, with the distributions of both cosines along the edges."""
    figure = new_figure(4.9, 6.5)
    scatter = figure.add_axes((0.125, 0.312, 0.70, 0.5277))
    top = figure.add_axes((0.125, 0.849, 0.70, 0.057), sharex=scatter)
    right = figure.add_axes((0.838, 0.312, 0.085, 0.5277), sharey=scatter)
    _scatter(scatter, record, points)
    scatter.set_xlabel(r"decoder cosine  $C^{\mathrm{dec}}_{i\,\sigma(i)}$", color=INK, fontsize=10)
    scatter.set_ylabel(r"encoder cosine  $C^{\mathrm{enc}}_{i\,\pi(i)}$", color=INK, fontsize=10)
    _edges(top, right, points)
    if _apart(record):
        scatter.plot(record["apart_dec"], record["apart_enc"], **APART_POINT)
    title = f"{label(record)} · L0 target {record['l0']} · seeds {seeds(record, ' and ')}"
    if is_named(record):
        title = f"SAEs {record['init'].replace(',', ' and ')}"
    figure.text(0.125, 0.955, title, fontsize=min(12, 12 * 40 / len(title)), fontweight="bold", color=INK)
    shares = f"same partner {record['same_match']:.1%} · shared {record['shared']:.1%}"
    figure.text(0.125, 0.922, f"{len(points[0]):,} latents · {shares}", fontsize=9.5, color=GREY)
    place = {"loc": "upper left", "bbox_to_anchor": (0.11, 0.228), "borderpad": 0, "handletextpad": 0.7}
    figure.legend(handles=_legend(record, points), frameon=False, fontsize=9.5, labelcolor=INK, **place)
    remark = {"fontsize": 9.5, "va": "top", "color": WARNING if shares_start(record) else GREY}
    figure.text(0.125, 0.066, start_remark(record), **remark)
    return figure


def grid_figure(records: list[Record], points_of: Callable[[Record], Points]) -> Figure:
    """Rows are initialisations, columns are L0 targets; a cell shows its first pair of seeds.

    At most `GRID_DOTS` latents are drawn, a random choice of equally many in each cell.
    """
    inits = list(dict.fromkeys(label(record) for record in records))
    targets = sorted({record["l0"] for record in records})
    first = {(label(record), record["l0"]): record for record in reversed(records)}
    most = GRID_DOTS // len(first)
    handles = [
        _dot(BLUE, "same partner, π(i) = σ(i)"),
        _dot(ORANGE, "other partner"),
        Line2D([], [], label="drift from the start", **DRIFT),
        Line2D([], [], label="random floor", **FLOOR),
    ]
    if any(shares_start(record) for record in records):
        star: dict[str, Any] = {"marker": "$*$", "markersize": 7, "linestyle": "", "color": WARNING}
        handles.append(Line2D([], [], label="seeds share their start", **star))
    if any(record["d_sae"] > most for record in first.values()):
        handles.append(Line2D([], [], linestyle="", label=f"{most:,} latents of each pair are drawn"))
    width = max(2.5 * len(targets) + 0.9, 5.4)
    columns = len(handles) if width > 10 else 2
    below = 0.62 + 0.24 * -(-len(handles) // columns)  # inches, for the ticks, the label and the legend
    height = 2.45 * len(inits) + 0.62 + below
    figure = new_figure(width, height)
    grid = figure.subplots(len(inits), len(targets), sharex=True, sharey=True, squeeze=False)
    for (i, init), (j, l0) in ((a, b) for a in enumerate(inits) for b in enumerate(targets)):
        axes = grid[i, j]
        if (init, l0) in first:
            record = first[init, l0]
            _scatter(axes, record, points_of(record), size=4, most=most)
            axes.set_aspect("equal", adjustable="box")
            pair = seeds(record, "-") + (" *" if shares_start(record) else "")
            axes.set_title(f"{pair} · same {record['same_match']:.0%}", fontsize=8.5, color=GREY, loc="left", pad=3)
        else:
            axes.axis("off")
        if i == 0:
            axes.text(0.5, 1.15, f"L0 = {l0}", transform=axes.transAxes, ha="center", fontweight="bold", color=INK)
        if j == 0:
            axes.set_ylabel(f"{init}\nencoder cosine", color=INK, fontsize=10)
        if i == len(inits) - 1:
            axes.set_xlabel("decoder cosine", color=INK, fontsize=10)
    top, bottom = 1 - 0.62 / height, below / height
    left = 0.78 / figure.get_figwidth()
    figure.subplots_adjust(left=left, right=0.985, top=top, bottom=bottom, wspace=0.1, hspace=0.2)
    figure.legend(handles=handles, loc="lower left", ncols=columns, frameon=False, fontsize=9.5, labelcolor=INK)
    return figure


def start_remark(record: Record) -> str:
    """The remark under a figure: do both seeds start from the same weights?"""
    starts = {"decoder": record["same_start_dec"], "encoder": record["same_start_enc"]}
    if is_named(record) and None in starts.values():
        return "Whether they share a start is not known."
    shared = " and ".join(name for name, same in starts.items() if same)
    if shared:
        return f"Both seeds start from the same {shared} weights:\nagreement here is no evidence of convergence."
    return (
        "Whether the seeds share a start is not known." if None in starts.values() else "Each seed has its own start."
    )


def _scatter(axes: Axes, record: Record, points: Points, size: float = 9, most: int | None = None) -> None:
    cos_dec, cos_enc, same = points
    quiet(axes)
    order = np.random.default_rng(0).permutation(len(same))[:most]  # neither colour lies on top of the other
    colours = np.where(same[:, None], to_rgb(BLUE), to_rgb(ORANGE))[order]
    axes.scatter(cos_dec[order], cos_enc[order], s=size, c=colours, alpha=0.45, linewidths=0, rasterized=True)
    axes.axvline(record["random_floor"], **FLOOR)
    axes.axhline(record["random_floor"], **FLOOR)
    for line, drift in ((axes.axvline, record["drift_dec"]), (axes.axhline, record["drift_enc"])):
        if drift is not None:
            line(drift, **DRIFT)
    axes.set(xlim=LIMITS, ylim=LIMITS, xticks=np.arange(0, 1.01, 0.2), yticks=np.arange(0, 1.01, 0.2))
    outside = int(((cos_dec < LIMITS[0]) | (cos_enc < LIMITS[0])).sum())
    if outside:
        axes.text(0.03, 0.015, f"{outside} below {LIMITS[0]}", transform=axes.transAxes, fontsize=8, color=GREY)


def _edges(top: Axes, right: Axes, points: Points) -> None:
    cos_dec, cos_enc, same = points
    style: dict[str, Any] = {"stacked": True, "color": [BLUE, ORANGE], "histtype": "stepfilled"}
    top.hist([cos_dec[same], cos_dec[~same]], bins=list(BINS), **style)
    right.hist([cos_enc[same], cos_enc[~same]], bins=list(BINS), orientation="horizontal", **style)
    for axes in (top, right):
        axes.axis("off")


def _legend(record: Record, points: Points) -> list[Line2D]:
    same = int(points[2].sum())
    drifts = f"decoder {number(record['drift_dec'])}, encoder {number(record['drift_enc'])}"
    apart = f"had they moved apart: decoder {number(record['apart_dec'])}, encoder {number(record['apart_enc'])}"
    return [
        _dot(BLUE, f"same partner, π(i) = σ(i): {same:,}"),
        _dot(ORANGE, f"other partner, π(i) ≠ σ(i): {len(points[2]) - same:,}"),
        Line2D([], [], label=f"drift from the start: {drifts}", **DRIFT),
        Line2D([], [], label=f"random floor: {number(record['random_floor'])}", **FLOOR),
        *([Line2D([], [], label=apart, **APART_POINT)] if _apart(record) else []),
    ]


def _apart(record: Record) -> bool:
    """Do both weights have a shared start to move apart from?"""
    return record["apart_dec"] is not None and record["apart_enc"] is not None


def _dot(colour: str, label: str) -> Line2D:
    return Line2D([], [], marker="o", linestyle="", markersize=6, color=colour, label=label)
