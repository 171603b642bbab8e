"""The figures of Ulm, Du & Snæbjarnarson 2025, of whatever an experiment tried: change by share of
synthetic text (figure 3) and by truncation (figure 2)."""

from __future__ import annotations

from cdgen.eval.report.comparison_report import Report
from cdgen.eval.report.figures import Panels, draw, panels_of
from cdgen.eval.report.methods import Method
from cdgen.experiment.recipe import Arm, RunRecipe
from cdgen.experiment.report.evidence import is_truncated
from cdgen.page.parts import Figure


def paper_figures(recipe: RunRecipe, report: Report) -> list[Figure]:
    """Return figure 3, change by ratio, and, if truncations were tried, figure 2, change by
    truncation at the first ratio."""
    figures = [
        _figure(
            "change-by-ratio",
            "Change against real text alone, by the share of synthetic text",
            panels_of(report),
            "share of synthetic text",
        )
    ]
    if any(is_truncated(arm) for arm in recipe.arms.values()):
        ratio = recipe.mixture.ratios[0]
        figures.append(
            _figure(
                "change-by-truncation",
                f"Change against real text alone, by truncation, at {100 * ratio:g} %",
                panels_of(report, lambda method: _by_truncation(recipe, method, ratio)),
                "truncation",
            )
        )
    return [figure for figure in figures if figure.svg]


def _by_truncation(recipe: RunRecipe, method: Method, ratio: float) -> tuple[str, str]:
    """Return the family and the truncation of a method. Raises KeyError for other ratios."""
    if method.place != f"{ratio:g}":
        raise KeyError(method.name)
    arm = recipe.arms[method.series]
    alike = [n for n, other in recipe.arms.items() if _untruncated(other) == _untruncated(arm)]
    family = min(alike, key=lambda name: is_truncated(recipe.arms[name]))
    return family, truncation_of(arm)


def _untruncated(arm: Arm) -> Arm:
    return arm.model_copy(update={"top_k": 0, "top_p": 1.0, "min_p": 0.0, "ratios": None})


def truncation_of(arm: Arm) -> str:
    """Return how an arm truncates, as an axis calls it: "none", "k=50", "p=0.95"."""
    parts = [f"k={arm.top_k}"] if arm.top_k else []
    parts += [f"p={arm.top_p:g}"] if arm.top_p < 1 else []
    parts += [f"min-p={arm.min_p:g}"] if arm.min_p else []
    return ", ".join(parts) or "none"


def _figure(name: str, title: str, panels: Panels, axis: str) -> Figure:
    said = [
        f"{panel}: "
        + "; ".join(
            f"{p.series}, {p.place}: {p.value:+.2f} ({p.low:+.2f} to {p.high:+.2f})" for p in points
        )
        for panel, points in panels.items()
    ]
    svg = _svg_element(draw(panels, "svg", axis)) if panels else ""
    return Figure(name, title, ". ".join(said), svg, "Bars are 95 % intervals.")


def _svg_element(document: bytes) -> str:
    """Return the <svg> element of a file, without the XML declaration before it."""
    text = document.decode()
    return text[text.index("<svg") :]
