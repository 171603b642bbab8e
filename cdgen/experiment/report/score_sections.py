"""The sections of the page that show scores: mean changes with their figures, and tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cdgen.eval.report.comparison_report import Report, title
from cdgen.eval.report.methods import Method
from cdgen.eval.report.results import read_results
from cdgen.eval.report.tables import ScoreName, subtask_scores
from cdgen.eval.statistics.comparison import holm
from cdgen.eval.statistics.intervals import Estimate
from cdgen.eval.summary import LOWER_IS_BETTER
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.report.evidence import Evidence
from cdgen.experiment.report.paper_figures import paper_figures
from cdgen.experiment.report.verdict import method_name
from cdgen.page.parts import Section, Table

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
    perplexities = [column for column in report.columns if column.metric in LOWER_IS_BETTER]
    if low := [c for c in report.columns if c not in (*report.averaged, *perplexities)]:
        names = ", ".join(map(title, low))
        notes.append(f"Not averaged, because the baseline's score is 0 or below: {names}.")
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
            tables=[_overview(report), _task_table(report), *_subtask_tables(evidence.methods)],
        ),
    ]


def _mean_table(reports: Iterable[Report], caption: str) -> Table:
    """Return a table of mean changes; p-values are adjusted for all of its rows."""
    means = {
        name: (mean, len(method.runs), against.covers_training)
        for report in reports
        for method in report.methods
        if (name := method.name) != report.baseline
        and (mean := (against := report.comparison.against_baseline[name]).mean_relative)
    }
    adjusted = holm({name: mean.p for name, (mean, _, _) in means.items()})
    rows = [
        [
            method_name(name),
            str(seeds),
            f"{100 * mean.value:+.2f} %",
            f"{100 * mean.low:+.2f} to {100 * mean.high:+.2f}",
            p_text(mean.p),
            p_text(adjusted[name]),
            share_text(mean.seed_share if covered else None),
        ]
        for name, (mean, seeds, covered) in means.items()
    ]
    head = ["method", "seeds", "mean relative change", "95 % interval", "p", "p, adjusted"]
    return Table(caption, [*head, "seeds' share of the variance"], rows)


def _columns(report: Report) -> list[ScoreName]:
    """Return the scores to show: of the perplexities that per token, since all students share a
    tokenizer, and three forms of one number would count as three comparisons."""
    return [c for c in report.columns if c.metric not in ("word_perplexity", "byte_perplexity")]


def _adjusted(report: Report) -> dict[tuple[str, str], float]:
    """Return p-values by method and task, adjusted for all of them."""
    against, keys = report.comparison.against_baseline, [c.key for c in _columns(report)]
    return holm({(name, key): own.tasks[key].p for name, own in against.items() for key in keys})


def _overview(report: Report) -> Table:
    """Return a row per method and a column per task."""
    adjusted, rows = _adjusted(report), []
    for name in (method.name for method in report.methods):
        cells = [method_name(name)]
        for column in _columns(report):
            score = report.comparison.scores[name][column.key]
            text = f"{_scale(column) * score.value:.2f}"
            if own := report.comparison.against_baseline.get(name):
                relative = own.tasks[column.key].relative
                star = "*" if adjusted[name, column.key] < 0.05 else ""
                text += star if relative is None else f" ({100 * relative:+.1f} %{star})"
            cells.append(text)
        rows.append(cells)
    return Table("Scores and relative changes", ["method", *map(title, _columns(report))], rows)


def _task_table(report: Report) -> Table:
    adjusted, rows = _adjusted(report), []
    for column in _columns(report):
        for name in (method.name for method in report.methods):
            scale, score = _scale(column), report.comparison.scores[name][column.key]
            cells = [f"{title(column)}, {method_name(name)}", _interval(score, scale)]
            if against := report.comparison.against_baseline.get(name):
                task = against.tasks[column.key]
                cells += [_interval(task.difference, scale, "+"), p_text(task.p)]
                share = task.seed_share if against.covers_training else None
                cells += [p_text(adjusted[name, column.key]), share_text(share)]
            else:
                cells += ["", "", "", ""]
            rows.append(cells)
    head = ["task and method", "score and 95 % interval", "difference and 95 % interval", "p"]
    head += ["p, adjusted", "seeds' share of the variance"]
    return Table("All scores and differences", head, rows, is_long=True)


def _subtask_tables(methods: Sequence[Method]) -> list[Table]:
    """Return a table of sub-tasks and further groups of items, such as languages, if there are any:
    for each method the mean over its seeds, the lowest and the highest."""
    found: dict[str, dict[str, list[float]]] = {}
    for method in methods:
        for folder in (run for run in method.runs if (run / "results.json").is_file()):
            for (task, name), score in subtask_scores(read_results(folder)).items():
                of_all = found.setdefault(f"{task}, {name}", {})
                of_all.setdefault(method.name, []).append(100 * score.value)
    if not found:
        return []
    rows = [
        [name, *(_mean_and_range(of_all.get(method.name, [])) for method in methods)]
        for name, of_all in found.items()
    ]
    caption = "Sub-tasks and groups of items: mean over seeds, lowest and highest"
    head = ["sub-task", *(method_name(method.name) for method in methods)]
    return [Table(caption, head, rows, is_long=True)]


def _mean_and_range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _interval(estimate: Estimate, scale: float, sign: str = "") -> str:
    value, low, high = (scale * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"


def _scale(column: ScoreName) -> float:
    return 1.0 if column.metric in LOWER_IS_BETTER else 100.0


def p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def share_text(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
