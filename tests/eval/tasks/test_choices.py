"""A choice task turns scores of candidates into ties, averages, correlations and predictions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from cdgen.errors import UsageError
from cdgen.eval.modes import MODES
from cdgen.eval.scoring.spans import SpanEncoder, Spans, spans_of
from cdgen.eval.summary import Summary
from cdgen.eval.tasks import choices
from cdgen.eval.tasks.choices import Choices, credits_of
from cdgen.eval.tasks.items import Item, choice_task

DEFAULT, BABYLM, PAPER = (MODES[name] for name in ("default", "babylm2025", "paper"))
Scores = list[
    tuple[str, list[float]]
]  # the sub-task of each item, and the scores of its candidates


def task_of(name: str, items: list[Item]) -> Choices:
    """Return a task with spans that are never scored."""
    task = choice_task(name)
    assert task is not None
    count = sum(len(item.candidates) for item in items)
    spans = spans_of([np.zeros(2, np.int32)] * count, np.ones(count, np.int64))
    return Choices(name, task, items, spans)


def an_item(uid: str, size: int = 2, **more: Any) -> Item:
    texts = tuple(f"text {i}" for i in range(size))
    return Item(uid, texts, (0,) * size, texts, **more)


def rows_of(task: Choices, scores: list[list[float]]) -> list[dict[str, Any]]:
    sums = np.array([score for item in scores for score in item])
    return task.predict(lambda spans: sums)


def summary(name: str, scores: Scores, mode: Any = DEFAULT) -> Summary:
    task = task_of(name, [an_item(uid, len(own)) for uid, own in scores])
    return task.summary(rows_of(task, [own for _, own in scores]), mode)


def accuracy(name: str, scores: Scores, mode: Any = DEFAULT) -> float:
    return summary(name, scores, mode).metrics["acc"].value


# ---- rows --------------------------------------------------------------------------------------


def test_candidates_are_scored_in_the_order_of_the_items(tmp_path: Path, llama: Path) -> None:
    """Items have two options or three; the fake score of a span is the length of its text."""
    folder = tmp_path / "entity_tracking"
    folder.mkdir()
    (folder / "regular.jsonl").write_text(
        '{"input_prefix": "It is ", "options": ["a long cat.", "a."], "numops": 0}\n'
        '{"input_prefix": "", "options": ["a.", "a big dog.", "a pig."], "numops": 1}\n'
        '{"input_prefix": "It is not ", "options": ["one.", "or another."], "numops": 0}\n'
    )
    task, encoder = choice_task("entity_tracking"), SpanEncoder(llama, True, None)
    assert task is not None
    loaded = Choices.load("entity_tracking", folder, task, encoder)

    def lengths(spans: Spans) -> np.ndarray:
        ids = [spans.sequence(i)[spans.first[i] :].tolist() for i in range(len(spans))]
        return np.array([float(len(encoder.decode(own).strip())) for own in ids])

    rows = loaded.predict(lengths)
    assert [row["scores"] for row in rows] == [[11, 2], [2, 10, 6], [4, 11]]
    assert [row["choice"] for row in rows] == [0, 1, 1]
    assert [row["uid"] for row in rows] == ["regular_0_ops", "regular_1_ops", "regular_0_ops"]
    assert [row["index"] for row in rows] == [0, 0, 1]


def test_the_choice_is_the_first_of_the_best() -> None:
    task = task_of("entity_tracking", [an_item("regular_0_ops", 4)] * 4)
    never = -math.inf
    scores = [[-3.0, -1, -1, -2], [-1.0] * 4, [-4.0, -3, -2, -1], [never, -9, never, -9]]
    assert [row["choice"] for row in rows_of(task, scores)] == [1, 0, 3, 1]


def test_indices_count_within_a_subtask() -> None:
    task = task_of("blimp_fast", [an_item(uid) for uid in "abaabb"])
    rows = rows_of(task, [[-1, -2]] * 6)
    assert "".join(row["uid"] for row in rows) == "abaabb"
    assert [row["index"] for row in rows] == [0, 0, 1, 2, 1, 2]


# ---- ties --------------------------------------------------------------------------------------

TIES = [
    ([-1, -2], 1, 1, False),
    ([-2, -1], 0, 0, False),
    ([-1, -1], 1 / 2, 1, True),
    ([-1, -2, -1], 1 / 2, 1, True),
    ([-1, -1, -1], 1 / 3, 1, True),
    ([-1, -1, -1, -1, -1], 1 / 5, 1, True),
    ([-2, -1, -1], 0, 0, False),  # a tie of wrong ones: any guess is wrong
    ([-math.inf, -math.inf], 1 / 2, 1, True),
]  # scores, credit, credit in the pipeline, is it a tie?


def test_a_tie_counts_as_a_guess_would() -> None:
    rows = [{"scores": scores} for scores, *_ in TIES]
    credit, tied = credits_of(rows, ties_are_right=False)
    assert credit.tolist() == [expected for _, expected, _, _ in TIES]
    assert tied.tolist() == [expected for *_, expected in TIES]


def test_a_tie_is_right_in_the_pipeline() -> None:
    rows = [{"scores": scores} for scores, *_ in TIES]
    credit, tied = credits_of(rows, ties_are_right=True)
    assert credit.tolist() == [expected for _, _, expected, _ in TIES]
    assert tied.tolist() == [expected for *_, expected in TIES]


@pytest.mark.parametrize(("mode", "expected"), [(DEFAULT, 0.5), (BABYLM, 1.0), (PAPER, 1.0)])
def test_a_model_without_an_opinion(mode: Any, expected: float) -> None:
    """Broken models score 100 % by the pipeline's rule; the number of ties shows it."""
    found = summary("blimp_fast", [("a", [-7.0, -7.0])] * 5 + [("b", [0.0, 0.0])] * 3, mode)
    assert found.metrics["acc"].value == expected
    assert (found.ties, found.items) == (8, 8)


# ---- averages ----------------------------------------------------------------------------------

RIGHT, WRONG, TIE = [-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]


def test_subtasks_count_alike_whatever_their_size() -> None:
    scores = [("a", RIGHT), ("b", WRONG), ("a", RIGHT), ("a", WRONG), ("a", TIE), ("c", TIE)]
    found = summary("ewok_fast", scores)
    assert found.metrics["acc"].value == pytest.approx((2.5 / 4 + 0 + 0.5) / 3)
    parts = {uid: (estimate.value, items) for uid, (estimate, items) in found.parts.items()}
    assert parts == {"a": (2.5 / 4, 4), "b": (0, 1), "c": (0.5, 1)}
    assert accuracy("ewok_fast", scores, BABYLM) == pytest.approx((3 / 4 + 0 + 1) / 3)


def test_entity_tracking_is_a_mean_of_means_of_means() -> None:
    """Items count alike within a number of operations, numbers within a file, and files."""
    answers = {
        "move_contents_0_ops": [RIGHT, RIGHT, RIGHT, WRONG],  # 3/4
        "move_contents_1_ops": [WRONG],  # 0
        "move_contents_2_ops": [TIE, TIE],  # 1/2
        "regular_0_ops": [RIGHT] * 5,  # 1
        "regular_1_ops": [RIGHT, WRONG],  # 1/2
        "ambiref_10_ops": [WRONG],  # 0
    }
    scores = [(uid, answer) for uid, own in answers.items() for answer in own]
    expected = ((3 / 4 + 0 + 1 / 2) / 3 + (1 + 1 / 2) / 2 + 0) / 3
    assert accuracy("entity_tracking", scores) == pytest.approx(expected)
    assert accuracy("entity_tracking_fast", scores) == pytest.approx(expected)
    # Another task would average over the sub-tasks, which gives another number.
    assert accuracy("blimp_fast", scores) == pytest.approx((3 / 4 + 0 + 1 / 2 + 1 + 1 / 2 + 0) / 6)


def test_labels_group_items_across_subtasks() -> None:
    """Scores of fields and terms are plain means over items, as in the pipeline's report."""
    labels = [{"field": "syntax"}, {"field": "syntax"}, {"field": "morphology"}, {}]
    uids = ["a", "b", "b", "c"]
    items = [an_item(uid, labels=own) for uid, own in zip(uids, labels, strict=True)]
    task = task_of("blimp_fast", [items[0]] * 3 + items[1:])
    rows = rows_of(task, [RIGHT, RIGHT, RIGHT, WRONG, TIE, WRONG])
    found = task.summary(rows, DEFAULT).labels
    assert set(found) == {"field"}
    scores = {value: estimate.value for value, estimate in found["field"].items()}
    assert scores == {"syntax": 3 / 4, "morphology": 1 / 2}


def test_the_interval_holds_the_score_and_narrows_with_items() -> None:
    widths = []
    for count in (4, 400):
        found = summary("blimp_fast", [("a", RIGHT), ("a", WRONG)] * count).metrics["acc"]
        assert 0 <= found.low < found.value == 0.5 < found.high <= 1
        assert found.stderr == pytest.approx(math.sqrt(0.25 / (2 * count - 1)))
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.3)


def test_texts_cut_to_the_context_are_counted(tmp_path: Path, llama: Path) -> None:
    folder = tmp_path / "supplement_fast"
    folder.mkdir()
    long = "Word after word after word after word. " * 3
    (folder / "a.jsonl").write_text(
        f'{{"sentence_good": "{long}", "sentence_bad": "A short one."}}\n'
        f'{{"sentence_good": "{long}", "sentence_bad": "{long}"}}\n'
    )
    task = choice_task("supplement")
    assert task is not None
    loaded = Choices.load("supplement_fast", folder, task, SpanEncoder(llama, True, longest=12))
    rows = loaded.predict(lambda spans: np.arange(len(spans), dtype=float))
    assert loaded.summary(rows, DEFAULT).cut == 3


SCORES = st.lists(
    st.tuples(
        st.sampled_from(["regular_0_ops", "regular_1_ops", "ambiref_0_ops", "move_contents_2_ops"]),
        st.lists(st.integers(-3, 0).map(float), min_size=2, max_size=5),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(SCORES, st.sampled_from(["blimp_fast", "entity_tracking"]), st.booleans())
def test_credits_are_shares(scores: Scores, name: str, babylm: bool) -> None:
    mode = BABYLM if babylm else DEFAULT
    found = summary(name, scores, mode)
    credit, tied = credits_of([{"scores": own} for _, own in scores], babylm)
    assert ((credit >= 0) & (credit <= 1)).all()
    assert found.ties == tied.sum()
    assert -1e-12 <= found.metrics["acc"].low <= found.metrics["acc"].value + 1e-12
    assert found.metrics["acc"].value <= found.metrics["acc"].high + 1e-12 <= 1 + 2e-12
    # No rule makes a guess worth more than the pipeline's does.
    assert accuracy(name, scores) <= accuracy(name, scores, BABYLM) + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.data(), SCORES, st.sampled_from(["blimp_fast", "entity_tracking"]))
def test_the_order_of_items_changes_nothing(data: st.DataObject, scores: Scores, name: str) -> None:
    other = data.draw(st.permutations(scores))
    found, again = summary(name, scores), summary(name, other)
    assert found.metrics["acc"].value == pytest.approx(again.metrics["acc"].value, abs=1e-12)
    assert found.metrics["acc"].stderr == pytest.approx(again.metrics["acc"].stderr, abs=1e-12)
    assert found.ties == again.ties
    assert {k: n for k, (_, n) in found.parts.items()} == {
        k: n for k, (_, n) in again.parts.items()
    }


@settings(max_examples=60, deadline=None)
@given(SCORES, st.integers(-100, 0), st.integers(1, 5))
def test_only_differences_between_candidates_matter(
    scores: Scores, shift: int, factor: int
) -> None:
    moved = [(uid, [factor * score + shift for score in own]) for uid, own in scores]
    assert accuracy("entity_tracking", scores) == accuracy("entity_tracking", moved)


# ---- WUG ---------------------------------------------------------------------------------------

HUMAN = [0.9, 0.1, 0.5, 0.75, 0.3, 0.3, 0.0, 1.0]
FORMS: list[list[float]] = [
    [-3, -5], [-9, -4], [-6, -6], [-1, -2], [-8, -8.5], [-3, -2], [-7, -2], [-2, -9],
]  # fmt: skip


def wug(scores: list[list[float]], human: list[float]) -> tuple[Choices, list[dict[str, Any]]]:
    items = [an_item("wug_adj", human=ratio) for ratio in human]
    task = task_of("wug_adj_nominalization", items)
    return task, rows_of(task, scores)


@pytest.mark.parametrize("mode", [DEFAULT, BABYLM])
def test_wug_is_spearmans_rho_with_peoples_choices(mode: Any) -> None:
    task, rows = wug(FORMS, HUMAN)
    found = task.summary(rows, mode)
    share = [1 / (1 + math.exp(second - first)) for first, second in FORMS]
    expected = spearmanr(share, HUMAN)[0]
    assert list(found.metrics) == ["spearman"]
    estimate = found.metrics["spearman"]
    assert estimate.value == pytest.approx(expected, abs=1e-12)
    assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert found.parts == {} and found.items == len(HUMAN)


def test_wug_does_not_saturate() -> None:
    """Differences of 200 and of 300 nats both make p(first) 1 in float64, yet they rank."""
    scores = [[-100.0 * i, -200.0 * i - 0.5 * i * i] for i in range(1, 21)]
    task, rows = wug(scores, [i / 20 for i in range(1, 21)])
    assert task.summary(rows, DEFAULT).metrics["spearman"].value == pytest.approx(1)


def test_the_papers_wug_is_how_often_the_first_form_is_best() -> None:
    task, rows = wug(FORMS, HUMAN)
    found = task.summary(rows, PAPER)
    assert {name: e.value for name, e in found.metrics.items()} == {"acc": (4 + 1) / 8}
    assert found.ties == 1


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_model_that_prefers_all_forms_alike_has_no_rho() -> None:
    task, rows = wug([[-5.0, -5.0]] * 8, HUMAN)
    with pytest.raises(UsageError):
        task.summary(rows, DEFAULT)


# ---- what is handed on -------------------------------------------------------------------------


def test_predictions_as_the_pipeline_saves_them() -> None:
    texts = ("It is it.", "It is not.")
    items = [Item(uid, texts, (5, 5), (" it.", " not.")) for uid in ("b", "a", "b")]
    task = task_of("ewok_fast", items)
    collated = task.collated(rows_of(task, [RIGHT, WRONG, WRONG]))
    assert collated["zero_shot/causal/ewok/ewok_fast"] == {
        "b": {"predictions": [{"id": "b_0", "pred": " it."}, {"id": "b_1", "pred": " not."}]},
        "a": {"predictions": [{"id": "a_0", "pred": " not."}]},
    }


def test_wug_predictions_carry_the_probability_of_the_first() -> None:
    scores = [[-3.0, -5.0], [-90.0, -4.0], [-6.0, -6.0], [-1.0, -400.0]]
    task, rows = wug(scores, HUMAN[:4])
    (content,) = task.collated(rows).values()
    found = content["wug_adj"]["predictions"]
    assert [entry["id"] for entry in found] == [f"wug_adj_{i}" for i in range(4)]
    assert [entry["pred"] for entry in found] == ["text 0", "text 1", "text 0", "text 0"]
    expected = torch.tensor(scores, dtype=torch.float32).softmax(1)[:, 0].tolist()
    assert [entry["prob"] for entry in found] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mode", [DEFAULT, BABYLM, PAPER])
@pytest.mark.parametrize("name", ["blimp_fast", "entity_tracking", "wug_adj_nominalization"])
def test_comparison_counts_as_the_summary_does(name: str, mode: Any) -> None:
    """`cdgen compare` starts from the predictions on disk; with every item counted once, it gets
    the same score."""
    rng = np.random.default_rng(0)
    wug_task = name.startswith("wug")
    uids = ["wug_adj"] if wug_task else ["regular_0_ops", "regular_1_ops", "ambiref_0_ops"]
    items = [
        an_item(uids[i % len(uids)], human=i / 40 if wug_task else math.nan) for i in range(40)
    ]
    task = task_of(name, items)
    runs = [rows_of(task, rng.integers(-4, 0, (40, 2)).astype(float).tolist()) for _ in range(3)]
    found = choices.scored(task.task, runs, mode)
    expected = [next(iter(task.summary(rows, mode).metrics.values())).value for rows in runs]
    assert found.seeds == 3 and found.higher_is_better
    np.testing.assert_allclose(found.value(np.ones(40, np.int64)), expected, atol=1e-12)


def test_a_bootstrap_draw_counts_items_as_often_as_they_were_drawn() -> None:
    task = task_of("blimp_fast", [an_item("a"), an_item("a"), an_item("b"), an_item("b")])
    rows = rows_of(task, [RIGHT, RIGHT, RIGHT, WRONG])
    found = choices.scored(task.task, [rows], DEFAULT)
    assert found.value(np.array([1, 1, 0, 2]))[0] == pytest.approx((1 + 0) / 2)
    assert found.value(np.array([1, 1, 2, 1]))[0] == pytest.approx((1 + 2 / 3) / 2)
