"""One look for all figures: colours safe for colour-blind eyes (Okabe & Ito), quiet axes, no global state."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

Value = TypeVar("Value")

BLUE, ORANGE = "#0072B2", "#E69F00"
INK, GREY, FAINT = "#1f2430", "#6b7280", "#e5e7eb"
WARNING = "#9a3412"
SERIES = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8c6d00")
# Line styles of one meaning each, in every figure.
DRIFT: dict[str, Any] = {"color": INK, "linewidth": 1.2, "linestyle": (0, (5, 3))}
FLOOR: dict[str, Any] = {"color": GREY, "linewidth": 1.2, "linestyle": (0, (1, 1.6))}
APART: dict[str, Any] = {"color": INK, "linewidth": 1.2, "linestyle": (0, (6, 2, 1, 2))}
MARKERS = ("o", "s", "^", "D", "v", "P")


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own, in inches, drawn with Agg: pyplot's global state is never touched."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def quiet(axes: Axes, **grid: Any) -> None:
    """Two thin spines, a faint grid behind the data, small ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=9, length=3)
    axes.grid(True, color=FAINT, linewidth=0.7, **grid)
    axes.set_axisbelow(True)


def target_axis(axes: Axes, targets: list[float]) -> None:
    """A logarithmic axis of L0, with a tick at each target alone."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(targets))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{target:g}" for target in targets])


def evenly(values: Sequence[Value], most: int) -> list[Value]:
    """At most so many of the values, at even steps, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def styles_of(inits: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each start."""
    places = enumerate(dict.fromkeys(inits))
    return {init: {"color": SERIES[i % len(SERIES)], "marker": MARKERS[i % len(MARKERS)]} for i, init in places}
