"""The answer in plain words says no more than the intervals do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_experiment import MadeUp

from cdgen.eval.report.comparison_report import Report
from cdgen.eval.report.methods import Method
from cdgen.eval.report.tables import ScoreName
from cdgen.eval.statistics.comparison import (
    Comparison,
    MeanRelative,
    MethodComparison,
    TaskComparison,
)
from cdgen.eval.statistics.intervals import Estimate
from cdgen.experiment.report.evidence import Evidence, gather
from cdgen.experiment.report.verdict import Change, adjusted, verdict

TASK, PERPLEXITY = ScoreName("blimp", "acc"), ScoreName("perplexity", "perplexity")


def against(
    value: float, half: float, p: float, seeds: int = 3, perplexity: Estimate | None = None
) -> MethodComparison:
    """Return a comparison whose mean change is `value`, give or take `half`."""
    mean = MeanRelative(value, half / 2, value - half, value + half, p, p, 0.6)
    estimate = Estimate(value, half / 2, value - half, value + half)
    tasks = {TASK.key: TaskComparison(estimate, value, p, p, 0.6)}
    if perplexity:
        tasks[PERPLEXITY.key] = TaskComparison(perplexity, None, p, p, 0.6)
    return MethodComparison(tasks, mean, covers_training=seeds > 1)


def evidence_of(missing: tuple[str, ...] = (), seeds: int = 3, **methods: Any) -> Evidence:
    """Return the evidence of comparisons by arm, each at 30 %."""
    named = {f"{arm}@0.3": comparison for arm, comparison in methods.items()}
    found = [Method(name, [Path("scores")] * seeds) for name in ("baseline", *named)]
    has_perplexity = any(PERPLEXITY.key in c.tasks for c in methods.values())
    columns = [TASK, PERPLEXITY] if has_perplexity else [TASK]
    scores = {m.name: {c.key: Estimate(20.0, 1, 19, 21) for c in columns} for m in found}
    report = Report(found, "baseline", columns, Comparison(scores, named), [TASK], [])
    wanted = ("baseline", *named, *(f"{arm}@0.3" for arm in missing))
    return Evidence(wanted, found, {}, report, {})


def test_a_clear_gain() -> None:
    answer = verdict(evidence_of(cd=against(0.049, 0.02, 0.001)))
    assert answer[0] == (
        "3 models trained on real text alone are compared with 3 models that read synthetic text"
        " too (1 method, 3 seeds each)."
    )
    assert answer[1] == (
        "Against real text alone, in the mean score over blimp, cd at 30 % (+4.9 %; 95 % interval"
        " +2.9 % to +6.9 %) did better."
    )
    assert (
        answer[2] == "Of the variance of these mean changes, 60 % is due to the seeds of training."
    )


def test_a_clear_loss() -> None:
    (_, answer, _) = verdict(evidence_of(cd=against(-0.05, 0.02, 0.001)))
    assert answer.endswith("cd at 30 % (-5.0 %; 95 % interval -7.0 % to -3.0 %) did worse.")


def test_nothing_shown() -> None:
    answer = " ".join(verdict(evidence_of(cd=against(0.049, 0.06, 0.2))))
    assert (
        "no difference could be shown for cd at 30 % (+4.9 %; 95 % interval -1.1 % to +10.9 %)."
        in answer
    )
    assert "better" not in answer and "worse" not in answer


def test_gain_loss_and_nothing_together() -> None:
    methods = {
        "a": against(0.05, 0.01, 0.001),
        "b": against(-0.05, 0.01, 0.001),
        **{name: against(0.0, 0.01 + i / 100, 0.9) for i, name in enumerate("cdef")},
    }
    (_, answer, _) = verdict(evidence_of(**methods))
    assert answer == (
        "Against real text alone, in the mean score over blimp, a at 30 % (+5.0 %; 95 % interval"
        " +4.0 % to +6.0 %) did better; b at 30 % (-5.0 %; 95 % interval -6.0 % to -4.0 %) did"
        " worse; no difference could be shown for the other 4 methods (95 % intervals between"
        " -4.0 % and +4.0 %)."
    )


def test_one_interval_of_many_that_leaves_zero_out_is_no_gain() -> None:
    methods = {name: against(0.0, 0.03, 0.9) for name in "bcdef"}
    answer = verdict(evidence_of(a=against(0.03, 0.029, 0.04), **methods))
    assert "no difference could be shown for any of the 6 methods" in answer[1]
    assert answer[2] == (
        "Taken alone, the interval leaves 0 out for a at 30 %; among 6 comparisons that can come"
        " about by chance (adjusted p = 0.24)."
    )


def test_too_few_seeds() -> None:
    """With one seed the interval knows nothing of training, however far from 0 it lies."""
    answer = " ".join(verdict(evidence_of(seeds=1, cd=against(0.5, 0.01, 0.001, seeds=1))))
    assert answer.startswith("1 model trained on real text alone is compared with 1 model")
    assert "nothing is claimed of cd at 30 % (+50.0 %; 95 % interval +49.0 % to +51.0 %)" in answer
    assert "one seed" in answer and "did better" not in answer


def test_a_missing_arm() -> None:
    answer = verdict(evidence_of(("vanilla", "plausible"), cd=against(0.05, 0.01, 0.001)))
    assert answer[-1] == (
        "No student of vanilla at 30 % and plausible at 30 % has scores yet, so nothing is said of"
        " that here."
    )


def test_lower_perplexity_is_better() -> None:
    lower, higher = Estimate(-2.0, 0.2, -2.4, -1.6), Estimate(1.0, 0.2, 0.6, 1.4)
    answer = " ".join(
        verdict(
            evidence_of(
                a=against(0.0, 0.1, 0.001, perplexity=lower),
                b=against(0.0, 0.1, 0.001, perplexity=higher),
            )
        )
    )
    assert (
        "In the perplexity of held-out text, where + means lower, a at 30 % (+10.0 %; 95 %"
        " interval +8.0 % to +12.0 %) did better; b at 30 % (-5.0 %; 95 % interval -7.0 % to"
        " -3.0 %) did worse."
    ) in answer


@pytest.mark.parametrize(
    ("low", "high", "p", "covered", "shown"),
    [
        (0.01, 0.03, 0.04, True, True),
        (-0.03, -0.01, 0.04, True, True),
        (0.01, 0.03, 0.06, True, False),
        (0.01, 0.03, 0.01, False, False),
        (-0.001, 0.03, 0.04, True, False),  # the two of them may differ by rounding
        (0.0, 0.03, 0.05, True, False),
    ],
)
def test_what_counts_as_shown(
    low: float, high: float, p: float, covered: bool, shown: bool
) -> None:
    (change,) = adjusted([Change("x", (low + high) / 2, low, high, p, covered)])
    assert change.is_shown == shown


# ---- from scores to words ------------------------------------------------------------------------


def answer_of(made: MadeUp) -> str:
    return " ".join(verdict(gather(made.recipe, made.layout, made.stages)))


def test_from_scores_of_a_large_gain(begun: Callable[..., MadeUp]) -> None:
    made = begun()
    made.score_all({"baseline": 0.4, "vanilla": 0.4, "cd": 0.9}, {"cd": 2.0})
    answer = answer_of(made)
    scores, contrast, perplexity = answer.split(". ")[1:4]
    assert scores.startswith("Against real text alone, in the mean score over blimp_fast, cd at")
    assert "did better; no difference could be shown for vanilla at 30 %" in scores
    assert contrast.startswith("Against vanilla sampling at the same share, cd at 30 %")
    assert contrast.endswith("did better") and "did better" in perplexity


def test_from_scores_of_seeds_that_differ_more_than_methods(begun: Callable[..., MadeUp]) -> None:
    made = begun()
    made.score_all({"baseline": 0.5, "vanilla": 0.5, "cd": 0.5})
    assert "did better" not in answer_of(made) and "did worse" not in answer_of(made)


def test_from_scores_of_one_seed(begun: Callable[..., MadeUp]) -> None:
    made = begun(seeds=[1])
    made.score_all({"baseline": 0.4, "vanilla": 0.4, "cd": 0.9}, {"cd": 2.0})
    answer = answer_of(made)
    assert "did better" not in answer and answer.count("nothing is claimed of") == 3


def test_without_a_baseline(begun: Callable[..., MadeUp]) -> None:
    made = begun()
    made.score_all({"cd": 0.9})
    assert answer_of(made).startswith(
        "Nothing can be said yet: no student of the baseline has scores yet. No student"
        " of baseline and vanilla at 30 % has scores yet"
    )
