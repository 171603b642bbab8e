"""The figures of a comparison: mu_dREL and the change of perplexity of each method, as figures 2
and 3 of Ulm, Du & Snæbjarnarson 2025 show them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cdgen.eval.report.comparison_report import Report
from cdgen.eval.report.methods import Method
from cdgen.eval.report.tables import ScoreName

PERPLEXITY = ScoreName("perplexity", "perplexity").key
# Told apart on white and on black, and by most who see no red or green; the markers differ too.
_COLOURS = ("#3b82d0", "#d9782b", "#2f9e78", "#b458a8", "#8f8a3a", "#7d8590")
_MARKERS = "osD^vP"


class Point(NamedTuple):
    """One method in a panel, in percent, with the ends of its 95 % interval."""

    series: str  # points of a series are joined by a line
    place: str  # on the axis, which is numeric if every place is a number
    value: float
    low: float
    high: float


Panels = Mapping[str, Sequence[Point]]  # by title


def panels_of(
    report: Report, names: Callable[[Method], tuple[str, str]] | None = None
) -> dict[str, list[Point]]:
    """Return a panel for mu_dREL and one for the change of perplexity, if they were measured.

    `names` gives a method its series and place, and may raise KeyError for one that is not shown.
    By default a method SERIES@X is a point of SERIES at X; others stand side by side.
    """
    named = names or (lambda method: (method.series, method.place or method.name))
    panels: dict[str, list[Point]] = {}
    for method in report.methods:
        if method.name == report.baseline:
            continue
        try:
            series, place = named(method)
        except KeyError:
            continue
        for title, interval in _intervals(report, method.name).items():
            panels.setdefault(title, []).append(Point(series, place, *interval))
    return panels


def _intervals(report: Report, method: str) -> dict[str, tuple[float, float, float]]:
    against, found = report.comparison.against_baseline[method], {}
    if mean := against.mean_relative:
        value, low, high = (100 * x for x in (mean.value, mean.low, mean.high))
        found["mean relative change of the tasks, %"] = (value, low, high)
    if PERPLEXITY in against.tasks:
        base = report.comparison.scores[report.baseline][PERPLEXITY].value
        change = against.tasks[PERPLEXITY].difference
        value, low, high = (-100 * x / base for x in (change.value, change.high, change.low))
        found["relative change of perplexity, % (up is better)"] = (value, low, high)
    return found


def draw(panels: Panels, format: Literal["png", "svg"] = "png", axis: str = "") -> bytes:
    """Draw the panels side by side, or one below the other in an SVG, which phones show too.

    Text in an SVG stays text, and everything but the series is drawn in the SVG's own colour.
    """
    import matplotlib
    from matplotlib.figure import Figure

    ink = "black" if format == "png" else _INK
    across = format == "png"
    settings: Any = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # names are no formulas
        "svg.hashsalt": axis or "cdgen",
        "font.family": "sans-serif",
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), ink),
        **dict.fromkeys(("xtick.color", "ytick.color"), ink),
    }
    with matplotlib.rc_context(settings):
        size = (5.5 * len(panels), 4.0) if across else (5.2, 3.3 * len(panels))
        figure = Figure(figsize=size, layout="constrained")
        shape = (1, len(panels)) if across else (len(panels), 1)
        axes = list(figure.subplots(*shape, squeeze=False).flat)
        for each, (title, points) in zip(axes, panels.items(), strict=True):
            _panel(each, title, points, ink)
            each.set_xlabel(axis)
        if any(point.series != point.place for points in panels.values() for point in points):
            lines, names = axes[0].get_legend_handles_labels()
            figure.legend(lines, names, loc="outside lower center", ncols=4, frameon=False)
        file = io.BytesIO()
        # No date and no name of the program: the same numbers give the same bytes.
        about = {"Software": None} if format == "png" else {"Date": None, "Creator": None}
        figure.savefig(file, format=format, dpi=150, metadata=about, transparent=not across)
    return file.getvalue().replace(_INK.encode(), b"currentColor")


_INK = "#010203"  # stands for the SVG's own colour until the file is written


def _panel(axis: Any, title: str, points: Sequence[Point], ink: str) -> None:
    places = _places([point.place for point in points])
    several = list(dict.fromkeys(point.series for point in points))
    for index, series in enumerate(several):
        mine = sorted((x, p) for x, p in zip(places, points, strict=True) if p.series == series)
        y = [point.value for _, point in mine]
        errors = [[p.value - p.low for _, p in mine], [p.high - p.value for _, p in mine]]
        marker = _MARKERS[index % len(_MARKERS)]
        axis.errorbar(
            # Series at one place stand beside each other.
            [x + _shift(index, len(several), places) for x, _ in mine],
            y,
            yerr=errors,
            fmt=f"{marker}-" if len(mine) > 1 else marker,
            color=_COLOURS[index % len(_COLOURS)],
            capsize=3,
            label=series,
        )
    margin = 0.1 * _width(places)  # or points at one place would lie at the two ends of the axis
    axis.set_xlim(min(places) - margin, max(places) + margin)
    axis.axhline(0, color=ink, linewidth=0.8, alpha=0.5)
    axis.set_title(title, fontsize=10)
    named = dict(zip(places, (point.place for point in points), strict=True))
    axis.set_xticks(sorted(named), [named[x] for x in sorted(named)])
    if max(map(len, named.values())) > 8:
        axis.tick_params("x", rotation=20)


def _shift(index: int, series: int, places: Sequence[float]) -> float:
    return 0.012 * _width(places) * (index - (series - 1) / 2)


def _width(places: Sequence[float]) -> float:
    return max(places) - min(places) or 1.0


def _places(names: Sequence[str]) -> list[float]:
    """Return the positions on the axis: the numbers themselves, or 0, 1, ... for words."""
    try:
        return [float(name) for name in names]
    except ValueError:
        order = list(dict.fromkeys(names))
        return [float(order.index(name)) for name in names]
