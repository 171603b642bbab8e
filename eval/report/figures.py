"""The figures of `cdgen compare`: mu_dREL and the change of perplexity of each method, as figures 2
and 3 of Ulm, Du & Snæbjarnarson 2025 show them."""

from __future__ import annotations

import io
from typing import Any

from cdgen.eval.report.comparison_report import Report
from cdgen.eval.report.methods import Method
from cdgen.eval.report.tables import ScoreName

_PERPLEXITY = ScoreName("perplexity", "perplexity").key
_Point = tuple[float, float, float]  # value, low, high


def draw(report: Report) -> bytes:  # PNG
    """Draw a panel for mu_dREL and, if perplexity was measured, a panel for its change.

    Methods named SERIES@X are points of one line over X; the axis is numeric if every X is a
    number. Other methods stand side by side.
    """
    from matplotlib.figure import Figure

    against = report.comparison.against_baseline
    panels = {"mean relative change of the tasks, %": _mean_relative(report)}
    if _PERPLEXITY in next(iter(against.values())).tasks:
        panels["relative change of perplexity, % (up is better)"] = _perplexity(report)
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        _panel(axis, title, points, report)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()


def _mean_relative(report: Report) -> dict[str, _Point]:
    """Return value, low and high of mu_dREL in percent, by method."""
    found = {}
    for name, other in report.comparison.against_baseline.items():
        mean = other.mean_relative
        found[name] = (100 * mean.value, 100 * mean.low, 100 * mean.high)
    return found


def _perplexity(report: Report) -> dict[str, _Point]:
    """Return value, low and high of the perplexity's decrease in percent, by method."""
    base = report.comparison.scores[report.baseline][_PERPLEXITY].value
    found = {}
    for name, other in report.comparison.against_baseline.items():
        gain = other.tasks[_PERPLEXITY].difference
        value, low, high = (-100 * x / base for x in (gain.value, gain.high, gain.low))
        found[name] = (value, low, high)
    return found


def _panel(axis: Any, title: str, points: dict[str, _Point], report: Report) -> None:
    methods = [method for method in report.methods if method.name in points]
    places = _places([method.place or method.name for method in methods])
    for series in dict.fromkeys(method.series for method in methods):
        mine = [(x, m) for x, m in zip(places, methods, strict=True) if m.series == series]
        xs = [x for x, _ in mine]
        values = [points[method.name] for _, method in mine]
        y = [value for value, _, _ in values]
        errors = [[v - low for v, low, _ in values], [high - v for v, _, high in values]]
        style = "o-" if len(mine) > 1 else "o"
        axis.errorbar(xs, y, yerr=errors, fmt=style, capsize=3, label=series)
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_title(title, fontsize=10)
    axis.set_xticks(sorted(set(places)), _labels(methods, places), rotation=20)
    if any(method.place for method in methods):
        axis.legend(fontsize=8)


def _places(names: list[str]) -> list[float]:
    """Return the positions on the axis: the numbers themselves, or 0, 1, ... for words."""
    try:
        return [float(name) for name in names]
    except ValueError:
        order = list(dict.fromkeys(names))
        return [float(order.index(name)) for name in names]


def _labels(methods: list[Method], places: list[float]) -> list[str]:
    named = {x: method.place or method.name for x, method in zip(places, methods, strict=True)}
    return [named[x] for x in sorted(named)]
