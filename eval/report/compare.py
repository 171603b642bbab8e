"""`cdgen compare`: the paper's table (scores, significance, mu_dREL) and its figures from any runs.

Ulm, Du & Snæbjarnarson 2025 compare methods with a baseline task by task and report mu_dREL, the
mean relative change over all tasks but perplexity; figures 2 and 3 show mu_dREL and the change of
perplexity against truncation and against the share of synthetic text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cdgen.errors import UsageError
from cdgen.eval.report.comparison_report import Report, column_key
from cdgen.eval.report.methods import Column, Method, Select, load_methods
from cdgen.eval.statistics.comparison import (
    Scored,
    compare,
)
from cdgen.eval.summary import LOWER_IS_BETTER
from cdgen.storage import canonical_json, make_folder, write_atomic


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
    named = {name: {column_key(c): s for c, s in of.items()} for name, of in scored.items()}
    comparison = compare(named, base, relative_over=[column_key(column) for column in averaged])
    return Report(list(methods), base, columns, comparison, averaged, left_out)


def write_report(report: Report, out: Path) -> None:
    """compare.md, compare.json and figures.png in `out`."""
    from cdgen.eval.report.figures import draw

    make_folder(out)
    write_atomic(out / "compare.md", report.markdown().encode())
    write_atomic(out / "compare.json", canonical_json(report.fields()))
    write_atomic(out / "figures.png", draw(report))


def _counts(column: Column, baseline: Scored) -> bool:
    """mu_dREL leaves perplexity out, and what the baseline scores at 0 or below."""
    import numpy as np

    score = float(baseline.value(np.ones(len(baseline.strata), np.int64)).mean())
    return column[1] not in LOWER_IS_BETTER and score > 0
