"""`cdgen compare`: the paper's table (scores, significance, mu_dREL) and its figures from any runs.

Ulm, Du & Snæbjarnarson 2025 compare methods with a baseline task by task and report mu_dREL, the
mean relative change over all tasks but perplexity; figures 2 and 3 show mu_dREL and the change of
perplexity against truncation and against the share of synthetic text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    scored = {
        method: {name.key: runs for name, runs in own.items()} for method, own in by_method.items()
    }
    averaged_keys = [name.key for name in averaged]
    comparison = compare(scored, base, resamples=_resamples(scored), relative_over=averaged_keys)
    return Report(list(methods), base, names, comparison, averaged, left_out)


def _resamples(scored: Mapping[str, Mapping[str, Scored]]) -> int:
    """Return how many draws of items to make. The smallest p-value is one in so many, and it should
    stay below 0.05 when it is adjusted for every method and task."""
    comparisons = sum(len(of) for of in scored.values())
    return max(1000, 40 * comparisons)


def write_report(report: Report, out: Path) -> None:
    """Write compare.md, compare.json and figures.png to `out`."""
    from cdgen.eval.report.figures import draw, panels_of

    make_folder(out)
    write_atomic(out / "compare.md", report.markdown().encode())
    write_atomic(out / "figures.png", draw(panels_of(report)))
    # Last: `cdgen run` takes it as a sign that all are there.
    write_atomic(out / "compare.json", canonical_json(report.fields()))


def _is_averaged(name: ScoreName, baseline: Scored) -> bool:
    """Return whether mu_dREL includes a score: not perplexity, nor a baseline of 0 or below."""
    import numpy as np

    score = float(baseline.value(np.ones(len(baseline.strata), np.int64)).mean())
    return name.metric not in LOWER_IS_BETTER and score > 0
