"""The sections of the page that show scores: mean changes, tasks, and the paper's figures."""

from __future__ import annotations

from collections.abc import Iterable

from cdgen.eval.report.comparison_report import Report, title
from cdgen.eval.report.figures import Panels, draw, panels_of
from cdgen.eval.report.methods import Method
from cdgen.eval.report.tables import ScoreName
from cdgen.eval.statistics.comparison import holm
from cdgen.eval.statistics.intervals import Estimate
from cdgen.eval.summary import LOWER_IS_BETTER
from cdgen.experiment.recipe import Arm, RunRecipe
from cdgen.experiment.report.evidence import Evidence, is_truncated
from cdgen.experiment.report.sections import Figure, Section, Table
from cdgen.experiment.report.verdict import method_name

_COVERED = (
    "Intervals hold for other items and, with two or more seeds on both sides, for other seeds;"
    " with one seed on a side, for other items alone. p is two-sided."
)


def score_sections(recipe: RunRecipe, evidence: Evidence) -> list[Section]:
    """Return the sections of scores; none if nothing can be compared."""
    if (report := evidence.against_real) is None:
        return []
    tables = [
        _mean_table([report], "Against real text alone"),
        _mean_table(evidence.against_vanilla.values(), "Against vanilla at the same share"),
    ]
    averaged = ", ".join(map(title, report.averaged))
    notes = [f"The mean relative change (the paper's mu_dREL) averages over {averaged}."]
    if not report.averaged:
        notes = ["No task but perplexity has a score above 0, so there is no mean change."]
    if report.left_out:
        names = ", ".join(map(title, report.left_out))
        notes.append(f"Left out because some student lacks it: {names}.")
    return [
        Section(
            "change",
            "How much the methods change",
            [*notes, f"{_COVERED} Its adjustment is Holm's, over the rows of a table."],
            figures=paper_figures(recipe, report),
            tables=[table for table in tables if table.rows],
        ),
        Section(
            "tasks",
            "Task by task",
            [
                "Scores in percent, except perplexities. In brackets: the relative change against"
                " real text alone, positive if the method is better. * marks p below 0.05 after"
                " Holm's adjustment over all tasks and methods."
            ],
            tables=[_overview(report), _task_table(report)],
        ),
    ]


def _mean_table(reports: Iterable[Report], caption: str) -> Table:
    """Return a table of mean changes; p-values are adjusted for all of its rows."""
    means = {
        name: (mean, len(method.runs))
        for report in reports
        for method in report.methods
        if (name := method.name) != report.baseline
        and (mean := report.comparison.against_baseline[name].mean_relative)
    }
    adjusted = holm({name: mean.p for name, (mean, _) in means.items()})
    rows = [
        [
            method_name(name),
            str(seeds),
            f"{100 * mean.value:+.2f} %",
            f"{100 * mean.low:+.2f} to {100 * mean.high:+.2f}",
            p_text(mean.p),
            p_text(adjusted[name]),
            share_text(mean.seed_share),
        ]
        for name, (mean, seeds) in means.items()
    ]
    head = ["method", "seeds", "mean relative change", "95 % interval", "p", "p, adjusted"]
    return Table(caption, [*head, "seeds' share of the variance"], rows)


def _adjusted(report: Report) -> dict[tuple[str, str], float]:
    """Return p-values by method and task, adjusted for all of them."""
    against = report.comparison.against_baseline
    return holm({(name, key): t.p for name, own in against.items() for key, t in own.tasks.items()})


def _overview(report: Report) -> Table:
    """Return a row per method and a column per task."""
    adjusted, rows = _adjusted(report), []
    for name in (method.name for method in report.methods):
        cells = [method_name(name)]
        for column in report.columns:
            score = report.comparison.scores[name][column.key]
            text = f"{_scale(column) * score.value:.2f}"
            if own := report.comparison.against_baseline.get(name):
                relative = own.tasks[column.key].relative
                star = "*" if adjusted[name, column.key] < 0.05 else ""
                text += star if relative is None else f" ({100 * relative:+.1f} %{star})"
            cells.append(text)
        rows.append(cells)
    return Table("Scores and relative changes", ["method", *map(title, report.columns)], rows)


def _task_table(report: Report) -> Table:
    adjusted, rows = _adjusted(report), []
    for column in report.columns:
        for name in (method.name for method in report.methods):
            scale, score = _scale(column), report.comparison.scores[name][column.key]
            cells = [f"{title(column)}, {method_name(name)}", _interval(score, scale)]
            if against := report.comparison.against_baseline.get(name):
                task = against.tasks[column.key]
                cells += [_interval(task.difference, scale, "+"), p_text(task.p)]
                cells += [p_text(adjusted[name, column.key]), share_text(task.seed_share)]
            else:
                cells += ["", "", "", ""]
            rows.append(cells)
    head = ["task and method", "score and 95 % interval", "difference and 95 % interval", "p"]
    head += ["p, adjusted", "seeds' share of the variance"]
    return Table("All scores and differences", head, rows, is_long=True)


def _interval(estimate: Estimate, scale: float, sign: str = "") -> str:
    value, low, high = (scale * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"


def _scale(column: ScoreName) -> float:
    return 1.0 if column.metric in LOWER_IS_BETTER else 100.0


def p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def share_text(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


# ---- the paper's figures -------------------------------------------------------------------------


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
    return Figure(name, title, ". ".join(said), svg)


def _svg_element(document: bytes) -> str:
    """Return the <svg> element of a file, without the XML declaration before it."""
    text = document.decode()
    return text[text.index("<svg") :]
