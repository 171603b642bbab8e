"""`cdgen compare`: the paper's table (scores, significance, mu_dREL) and its figures from any runs.

Ulm, Du & Snæbjarnarson 2025 compare methods with a baseline task by task and report mu_dREL, the
mean relative change over all tasks but perplexity; figures 2 and 3 show mu_dREL and the change of
perplexity against truncation and against the share of synthetic text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cdgen.errors import UsageError
from cdgen.eval.modes import Select
from cdgen.eval.report.comparison_report import Report
from cdgen.eval.report.methods import Method, load_methods
from cdgen.eval.report.tables import ScoreName
from cdgen.eval.statistics.comparison import Scored, compare
from cdgen.eval.summary import LOWER_IS_BETTER
from cdgen.storage import canonical_json, make_folder, write_atomic


def make_report(methods: Sequence[Method], baseline: str | None, select: Select | None) -> Report:
    """Compare the methods with `baseline`, by default the first.

    Raises UsageError if the runs do not belong together.
    """
    if len(methods) < 2:
        raise UsageError("RUN...: expected two or more methods, the first being the baseline")
    base = baseline or methods[0].name
    by_method, left_out = load_methods(methods, select)
    if base not in by_method:
        raise UsageError(f"--baseline: expected one of {', '.join(by_method)}, got {base}")
    names = list(by_method[base])
    if not names:
        raise UsageError("RUN...: the runs have no task in common")
    averaged = [name for name in names if _is_averaged(name, by_method[base][name])]
    if not averaged:
        raise UsageError(
            f"{base}: no score but perplexity is above 0, so no relative change exists"
        )
    scored = {
        method: {name.key: runs for name, runs in own.items()} for method, own in by_method.items()
    }
    comparison = compare(scored, base, relative_over=[name.key for name in averaged])
    return Report(list(methods), base, names, comparison, averaged, left_out)


def write_report(report: Report, out: Path) -> None:
    """Write compare.md, compare.json and figures.png to `out`."""
    from cdgen.eval.report.figures import draw

    make_folder(out)
    write_atomic(out / "compare.md", report.markdown().encode())
    write_atomic(out / "compare.json", canonical_json(report.fields()))
    write_atomic(out / "figures.png", draw(report))


def _is_averaged(name: ScoreName, baseline: Scored) -> bool:
    """Return whether mu_dREL includes a score: not perplexity, nor a baseline of 0 or below."""
    import numpy as np

    score = float(baseline.value(np.ones(len(baseline.strata), np.int64)).mean())
    return name.metric not in LOWER_IS_BETTER and score > 0
