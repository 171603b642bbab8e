"""`cdgen compare`: the paper's table (scores, significance, mu_dREL) and its figures from any runs.

Ulm, Du & Snæbjarnarson 2025 compare methods with a baseline task by task and report mu_dREL, the
mean relative change over all tasks but perplexity; figures 2 and 3 show mu_dREL and the change of
perplexity against truncation and against the share of synthetic text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdgen.errors import UsageError
from cdgen.eval.comparison import Comparison, Scored, TaskComparison, compare
from cdgen.eval.intervals import Estimate
from cdgen.eval.methods import Column, Method, Select, load_methods
from cdgen.eval.summary import LOWER_IS_BETTER
from cdgen.storage import canonical_json, make_folder, write_atomic


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
            change = against.tasks[_key(column)] if against else None
            cells.append(_cell(column, scores[_key(column)], change))
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
            "averaged": [_key(column) for column in self.averaged],
            **asdict(self.comparison),
        }


def make_report(methods: Sequence[Method], baseline: str | None, select: Select | None) -> Report:
    """Raises UsageError where the runs do not belong together."""
    if len(methods) < 2:
        raise UsageError("RUN...: expected two or more methods, the first being the baseline")
    base = baseline or methods[0].name
    scored, left_out = load_methods(methods, select)
    if base not in scored:
        raise UsageError(f"--baseline: expected one of {', '.join(scored)}, got {base}")
    columns = list(scored[base])
    if not columns:
        raise UsageError("RUN...: the runs have no task in common")
    averaged = [column for column in columns if _counts(column, scored[base][column])]
    if not averaged:
        raise UsageError(
            f"{base}: no score but perplexity is above 0, so no relative change exists"
        )
    named = {name: {_key(c): s for c, s in of.items()} for name, of in scored.items()}
    comparison = compare(named, base, relative_over=[_key(column) for column in averaged])
    return Report(list(methods), base, columns, comparison, averaged, left_out)


def write_report(report: Report, out: Path) -> None:
    """compare.md, compare.json and figures.png in `out`."""
    from cdgen.eval.figures import draw

    make_folder(out)
    write_atomic(out / "compare.md", report.markdown().encode())
    write_atomic(out / "compare.json", canonical_json(report.fields()))
    write_atomic(out / "figures.png", draw(report))


def _counts(column: Column, baseline: Scored) -> bool:
    """mu_dREL leaves perplexity out, and what the baseline scores at 0 or below."""
    import numpy as np

    score = float(baseline.value(np.ones(len(baseline.strata), np.int64)).mean())
    return column[1] not in LOWER_IS_BETTER and score > 0


def _key(column: Column) -> str:
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
