"""A chart of horizontal bars as SVG: the same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

# Told apart on white by most who see no red or green.
_COLOURS = ("#3b82d0", "#d9782b", "#2f9e78", "#b458a8", "#8f8a3a", "#7d8590")
_THICKNESS, _LINE_INCHES = 0.8, 0.2


class Bar(NamedTuple):
    """A bar in the group of its label, with the ends of its whisker."""

    label: str
    series: str
    value: float
    low: float
    high: float


def draw_bars(
    bars: Sequence[Bar],
    axis: str,  # what the numbers are, with their unit
    *,
    logarithmic: bool = False,
    line: float | None = None,  # a number to mark, such as 1 for as fast as the baseline
) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": axis,
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 9,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7.0, 1.1 + _LINE_INCHES * len(bars)), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel(axis)
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda number, _: shortened(number))
        _draw(axes, bars, line if logarithmic and line else 0)
        if line is not None:
            axes.axvline(line, color="black", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        file = io.BytesIO()
        about = {"Date": None, "Creator": None}
        figure.savefig(file, format="svg", metadata=about)
    return file.getvalue()


def _draw(axes: Any, bars: Sequence[Bar], start: float) -> None:
    """Draw each label's bars side by side, from the top down, each from `start` to its number."""
    labels = list(dict.fromkeys(bar.label for bar in bars))
    series = list(dict.fromkeys(bar.series for bar in bars))
    place, ticks = 0.0, []
    for label in labels:
        group = [bar for bar in bars if bar.label == label]
        ticks.append(place + (len(group) - 1) / 2)
        for bar in group:
            colour = _COLOURS[series.index(bar.series) % len(_COLOURS)]
            ends = [[bar.value - bar.low], [bar.high - bar.value]]
            length = bar.value - start
            axes.barh(place, length, _THICKNESS, left=start, color=colour, xerr=ends)
            _write_number(axes, bar, place, start)
            place += 1
        place += 0.6
    axes.set_yticks(ticks, labels)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    if len(series) > 1:
        handles = [axes.barh(0, 0, left=start, color=c) for c in _COLOURS[: len(series)]]
        axes.figure.legend(handles, series, loc="outside upper left", ncols=3, frameon=False)


def _write_number(axes: Any, bar: Bar, place: float, start: float) -> None:
    """Write a bar's number beyond its end."""
    grows = bar.value >= start
    axes.annotate(
        shortened(bar.value),
        (bar.high if grows else bar.low, place),
        xytext=(4 if grows else -4, 0),
        textcoords="offset points",
        va="center",
        ha="left" if grows else "right",
    )


def shortened(number: float) -> str:
    """Return three significant digits, or all of a whole number's."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
