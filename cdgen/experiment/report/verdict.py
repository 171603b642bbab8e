"""The answer of an experiment in plain words, never stronger than its intervals.

A method is said to be better or worse only if its interval, with the variance between seeds in it,
leaves 0 out, and its p-value, adjusted by Holm's method for all comparisons of that kind on the
page, is below 0.05. Everything else is a difference that could not be shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cdgen.eval.report.comparison_report import Report, title
from cdgen.eval.report.figures import PERPLEXITY
from cdgen.eval.statistics.comparison import holm
from cdgen.experiment.report.evidence import Evidence

_LEVEL = 0.05
_NAMED = 3  # results without a difference that are listed one by one


@dataclass(frozen=True)
class Change:
    """A relative change of a method, as a fraction that is positive if the method is better."""

    name: str  # as a sentence calls the method: "cd at 30 %"
    value: float
    low: float
    high: float
    p: float  # two-sided
    covers_training: bool  # False if a side has one seed
    p_adjusted: float = 1.0

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def is_shown(self) -> bool:
        return self.covers_training and self.excludes_zero and self.p_adjusted < _LEVEL

    def __str__(self) -> str:
        return f"{self.name} ({_percent(self.value)}; 95 % interval {self.interval})"

    @property
    def interval(self) -> str:
        return f"{_percent(self.low)} to {_percent(self.high)}"


def verdict(evidence: Evidence) -> list[str]:
    """Return the sentences of the answer."""
    if evidence.against_real is None:
        sentences = [f"Nothing can be said yet: {evidence.problem}."]
    else:
        sentences = _answers(evidence, evidence.against_real)
    if evidence.silent:
        names = _listed(map(method_name, evidence.silent))
        sentences.append(f"No student of {names} has scores yet, so nothing is said of that here.")
    if evidence.missing and evidence.against_real:
        count = len(evidence.missing)
        sentences.append(f"Students without scores: {count}; these results may change with them.")
    return sentences


def _answers(evidence: Evidence, report: Report) -> list[str]:
    sentences = [_scope(report)]
    scores = adjusted(_mean_changes([report]))
    if scores:
        tasks = f"the mean score over {_listed(dict.fromkeys(map(title, report.averaged)))}"
        sentences += _statements(scores, f"Against real text alone, in {tasks}")
        contrast = adjusted(_mean_changes(evidence.against_vanilla.values()))
        if contrast:
            sentences += _statements(contrast, "Against vanilla sampling at the same share")
    if perplexity := adjusted(_perplexity_changes(report)):
        sentences += _statements(
            perplexity, "In the perplexity of held-out text, where + means lower"
        )
    elif not scores:
        sentences.append("No score can be compared.")
    return [*sentences, *_seed_noise(report)]


def _scope(report: Report) -> str:
    seeds = {method.name: len(method.runs) for method in report.methods}
    others = [count for name, count in seeds.items() if name != report.baseline]
    return (
        f"{_counted(seeds[report.baseline], 'model')} trained on real text alone"
        f" {'is' if seeds[report.baseline] == 1 else 'are'} compared with"
        f" {_counted(sum(others), 'model')} that read synthetic text too"
        f" ({_counted(len(others), 'method')}, {_span(others)} each)."
    )


def _mean_changes(reports: Iterable[Report]) -> list[Change]:
    return [
        Change(method_name(name), m.value, m.low, m.high, m.p, against.covers_training)
        for report in reports
        for name, against in report.comparison.against_baseline.items()
        if (m := against.mean_relative)
    ]


def _perplexity_changes(report: Report) -> list[Change]:
    """Return the changes of perplexity; a lower one is better."""
    if PERPLEXITY not in report.comparison.scores[report.baseline]:
        return []
    base = report.comparison.scores[report.baseline][PERPLEXITY].value
    changes = []
    for name, against in report.comparison.against_baseline.items():
        task = against.tasks[PERPLEXITY]
        gain, low, high = (
            -x / base for x in (task.difference.value, task.difference.high, task.difference.low)
        )
        covered = against.covers_training
        changes.append(Change(method_name(name), gain, low, high, task.p, covered))
    return changes


def adjusted(changes: Sequence[Change]) -> list[Change]:
    """Return the changes with their p-values adjusted for their number."""
    p = holm({change.name: change.p for change in changes})
    return [Change(**{**vars(change), "p_adjusted": p[change.name]}) for change in changes]


def _statements(changes: Sequence[Change], where: str) -> list[str]:
    """Say what a family of comparisons shows: gains, losses, and what could not be shown."""
    by_value = sorted(changes, key=lambda change: -change.value)
    shown = [change for change in by_value if change.is_shown]
    rest = [c for c in by_value if c.covers_training and not c.is_shown]
    parts = []
    if gains := [change for change in shown if change.value > 0]:
        parts.append(f"{_listed(map(str, gains))} did better")
    if losses := [change for change in shown if change.value < 0]:
        parts.append(f"{_listed(map(str, losses))} did worse")
    if rest:
        all_of_them = len(rest) == len(changes)
        parts.append(f"no difference could be shown for {_no_difference(rest, all_of_them)}")
    sentences = [f"{where}, {'; '.join(parts)}."] if parts else []
    if chance := [change for change in rest if change.excludes_zero]:
        sentences.append(_by_chance(chance, len(changes)))
    if once := [change for change in by_value if not change.covers_training]:
        sentences.append(
            f"{where}, nothing is claimed of {_few(once)}: a side was trained with one seed, and"
            " the intervals leave out how much another seed would differ."
        )
    return sentences


def _no_difference(changes: Sequence[Change], all_of_them: bool) -> str:
    if len(changes) <= _NAMED:
        return _listed(map(str, changes))
    which = f"any of the {len(changes)}" if all_of_them else f"the other {len(changes)}"
    return f"{which} methods ({_bounds(changes)})"


def _few(changes: Sequence[Change]) -> str:
    if len(changes) <= _NAMED:
        return _listed(map(str, changes))
    return f"{len(changes)} methods ({_bounds(changes)})"


def _bounds(changes: Sequence[Change]) -> str:
    low, high = min(c.low for c in changes), max(c.high for c in changes)
    return f"95 % intervals between {_percent(low)} and {_percent(high)}"


def _by_chance(changes: Sequence[Change], comparisons: int) -> str:
    smallest = min(change.p_adjusted for change in changes)
    names = _listed(change.name for change in changes)
    return (
        f"Taken alone, the interval leaves 0 out for {names}; among"
        f" {_counted(comparisons, 'comparison')} that can come about by chance (adjusted p ="
        f" {smallest:.2g}{' or more' if len(changes) > 1 else ''})."
    )


def _seed_noise(report: Report) -> list[str]:
    covered = [a for a in report.comparison.against_baseline.values() if a.covers_training]
    means = [against.mean_relative for against in covered]
    shares = [mean.seed_share for mean in means if mean and mean.seed_share is not None]
    if not shares:
        return []
    low, high = (f"{100 * share:.0f} %" for share in (min(shares), max(shares)))
    share = low if low == high else f"{low} to {high}"
    return [f"Of the variance of these mean changes, {share} is due to the seeds of training."]


def method_name(method: str) -> str:
    """Return how a sentence calls a method: "cd at 30 %" for cd@0.3."""
    series, at, place = method.partition("@")
    return f"{series} at {100 * float(place):g} %" if at else series


def _percent(value: float) -> str:
    return f"{100 * value:+.1f} %"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return _counted(high, "seed") if low == high else f"{low} to {high} seeds"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
