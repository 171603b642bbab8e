"""The paper's table from a comparison: scores, significance, mu_dREL."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cdgen.eval.report.methods import Column, Method
from cdgen.eval.statistics.comparison import (
    Comparison,
    TaskComparison,
)
from cdgen.eval.statistics.intervals import Estimate
from cdgen.eval.summary import LOWER_IS_BETTER


@dataclass(frozen=True)
class Report:
    methods: list[Method]
    baseline: str
    columns: list[Column]
    comparison: Comparison  # its tasks are named "task metric"
    averaged: list[Column]  # what mu_dREL is the mean over
    left_out: list[Column]  # scores that some run lacks

    def markdown(self) -> str:
        head = ["method", "seeds", *(_title(column) for column in self.columns), "mu_dREL %"]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * 2}{'---:|' * (len(head) - 2)}"]
        for method in self.methods:
            lines.append(f"| {' | '.join(self._row(method))} |")
        return "\n".join([*lines, "", *self._notes(), ""])

    def _row(self, method: Method) -> list[str]:
        scores = self.comparison.scores[method.name]
        against = self.comparison.against_baseline.get(method.name)
        cells = []
        for column in self.columns:
            change = against.tasks[column_key(column)] if against else None
            cells.append(_cell(column, scores[column_key(column)], change))
        gain = _percent(against.mean_relative) if against else "-"
        return [method.name, str(len(method.runs)), *cells, gain]

    def _notes(self) -> list[str]:
        others = self.comparison.against_baseline.values()
        notes = [
            f"Against {self.baseline}; in brackets the half-width of the 95 % interval, then the"
            " relative change, better being positive. * p < 0.05 after Holm's correction over the"
            " tasks. Perplexities as they are, all else in percent.",
            f"mu_dREL: mean relative change over {', '.join(map(_title, self.averaged))}.",
        ]
        if not all(other.covers_training for other in others):
            notes.append(
                "A side with one seed: the intervals hold the choice of items, not that of the"
                " training run; another seed may differ by more."
            )
        elif shares := _seed_shares(others):
            notes.append(f"Share of a difference's variance that is seed noise: {shares}.")
        if self.left_out:
            notes.append(
                f"Left out, for some run lacks it: {', '.join(map(_title, self.left_out))}."
            )
        return notes

    def fields(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline,
            "methods": {method.name: len(method.runs) for method in self.methods},
            "averaged": [column_key(column) for column in self.averaged],
            **asdict(self.comparison),
        }


def column_key(column: Column) -> str:
    return " ".join(column)


def _title(column: Column) -> str:
    task, metric = column
    return task if metric in ("acc", "spearman", "perplexity") else metric


def _cell(column: Column, score: Estimate, change: TaskComparison | None) -> str:
    scale = 1 if column[1] in LOWER_IS_BETTER else 100
    text = f"{scale * score.value:.2f} ({scale * (score.high - score.low) / 2:.2f})"
    if change is None or change.relative is None:
        return text
    star = "*" if change.p_holm < 0.05 else ""
    return f"{text} {100 * change.relative:+.1f} %{star}"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.2f} ({100 * estimate.low:+.2f} to {100 * estimate.high:+.2f})"


def _seed_shares(others: Any) -> str:
    shares: list[float] = [
        task.seed_share
        for other in others
        for task in other.tasks.values()
        if task.seed_share is not None
    ]
    return f"{min(shares):.0%} to {max(shares):.0%}" if shares else ""
