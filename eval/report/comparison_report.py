"""The paper's table, made from a comparison: scores, significance, mu_dREL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cdgen.eval.report.methods import Method
from cdgen.eval.report.tables import ScoreName
from cdgen.eval.statistics.comparison import Comparison, MethodComparison, TaskComparison
from cdgen.eval.statistics.intervals import Estimate
from cdgen.eval.summary import LOWER_IS_BETTER
from cdgen.shown_text import in_markdown


@dataclass(frozen=True)
class Report:
    """A comparison of methods, and how to show it."""

    methods: list[Method]
    baseline: str
    columns: list[ScoreName]
    comparison: Comparison  # its tasks are the keys of `columns`
    averaged: list[ScoreName]  # the scores that mu_dREL averages
    left_out: list[ScoreName]  # the scores that some run lacks

    def markdown(self) -> str:
        head = ["method", "seeds", *(_heading(column) for column in self.columns), "mu_dREL %"]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * 2}{'---:|' * (len(head) - 2)}"]
        for method in self.methods:
            lines.append(f"| {' | '.join(self._cells(method))} |")
        return "\n".join([*lines, "", *self._notes(), ""])

    def fields(self) -> dict[str, Any]:
        """Return the content of compare.json."""
        return {
            "baseline": self.baseline,
            "methods": {method.name: len(method.runs) for method in self.methods},
            "averaged": [column.key for column in self.averaged],
            **asdict(self.comparison),
        }

    def _cells(self, method: Method) -> list[str]:
        scores = self.comparison.scores[method.name]
        against = self.comparison.against_baseline.get(method.name)
        cells = []
        for column in self.columns:
            change = against.tasks[column.key] if against else None
            cells.append(_cell(column, scores[column.key], change))
        mean = against.mean_relative if against else None
        gain = _percent(mean) if mean else "-"
        return [in_markdown(method.name), str(len(method.runs)), *cells, gain]

    def _notes(self) -> list[str]:
        others = self.comparison.against_baseline.values()
        notes = [
            f"Compared with {in_markdown(self.baseline)}. In brackets: half the width of the 95 %"
            " interval; then the relative change, positive if better. * p < 0.05 after Holm's"
            " correction over the tasks. All scores in percent, except perplexities.",
            f"mu_dREL: mean relative change over {', '.join(map(_heading, self.averaged))}."
            if self.averaged
            else "mu_dREL: no task but perplexity has a score above 0, so there is none.",
        ]
        if not all(other.covers_training for other in others):
            notes.append(
                "Some side has a single seed: the intervals cover the choice of items, but not"
                " training; another seed may differ by more."
            )
        elif shares := _seed_shares(others):
            notes.append(f"Share of a difference's variance that is seed noise: {shares}.")
        if self.left_out:
            titles = ", ".join(map(_heading, self.left_out))
            notes.append(f"Left out because some run lacks it: {titles}.")
        return notes


def title(column: ScoreName) -> str:
    return column.task if column.metric in ("acc", "spearman", "perplexity") else column.metric


def _heading(column: ScoreName) -> str:
    return in_markdown(title(column))


def _cell(column: ScoreName, score: Estimate, change: TaskComparison | None) -> str:
    scale = 1 if column.metric in LOWER_IS_BETTER else 100
    text = f"{scale * score.value:.2f} ({scale * (score.high - score.low) / 2:.2f})"
    if change is None or change.relative is None:
        return text
    star = "*" if change.p_holm < 0.05 else ""
    return f"{text} {100 * change.relative:+.1f} %{star}"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.2f} ({100 * estimate.low:+.2f} to {100 * estimate.high:+.2f})"


def _seed_shares(others: Iterable[MethodComparison]) -> str:
    tasks = (task for other in others for task in other.tasks.values())
    shares = [task.seed_share for task in tasks if task.seed_share is not None]
    return f"{min(shares):.0%} to {max(shares):.0%}" if shares else ""
