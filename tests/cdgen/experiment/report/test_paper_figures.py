"""The paper's figures, of whatever an experiment tried."""

from __future__ import annotations

from collections.abc import Callable

from made_up_experiment import MadeUp

from cdgen.experiment.recipe import Arm
from cdgen.experiment.report.evidence import gather
from cdgen.experiment.report.paper_figures import paper_figures, truncation_of
from cdgen.page.parts import Figure

POINT = " to "  # within the interval of a point


def figures_of(made: MadeUp) -> list[Figure]:
    report = gather(made.recipe, made.layout, made.stages).against_real
    assert report is not None
    return paper_figures(made.recipe, report)


def test_truncations_of_one_family_are_a_line(whole: MadeUp) -> None:
    """Both figures have two panels; the one by truncation shows one ratio of the two."""
    by_ratio, by_truncation = figures_of(whole)
    assert by_ratio.text.count(POINT) == 2 * 10
    assert by_truncation.text.count(POINT) == 2 * 5
    for point in ("cd, none: ", "cd, k=50: ", "vanilla, k=50: ", "plausible, none: "):
        assert by_truncation.text.count(point) == 2, point
    assert "cd-k50" not in by_truncation.text and "at 30 %" in by_truncation.title


def test_without_truncation_there_is_no_figure_of_it(begun: Callable[..., MadeUp]) -> None:
    made = begun(arms={"vanilla": {"strategy": "vanilla", "ratios": [0.5]}}, seeds=[1])
    made.score_all({"baseline": 0.5, "vanilla": 0.5})
    (figure,) = figures_of(made)
    assert figure.text.count("vanilla, 0.5: ") == 2, "an arm may have ratios of its own"


def test_a_student_that_is_missing_is_no_point(begun: Callable[..., MadeUp]) -> None:
    made = begun()
    made.score_all({"baseline": 0.5, "cd": 0.5})
    (figure,) = figures_of(made)
    assert figure.text.count(POINT) == 2 and "vanilla" not in figure.text


def test_names_of_truncations() -> None:
    for fields, name in (
        ({}, "none"),
        ({"top_k": 50}, "k=50"),
        ({"top_p": 0.95, "top_k": 200}, "k=200, p=0.95"),
        ({"min_p": 0.1}, "min-p=0.1"),
    ):
        assert truncation_of(Arm(strategy="vanilla", **fields)) == name
