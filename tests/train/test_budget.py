"""Words and epochs by hand, and BabyLM's rules exactly at their limits."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.errors import UsageError
from cdgen.train.budget import Budget, Reading, Text, write_budget

STRICT, SMALL = 100_000_000, 10_000_000
REAL = Text("real", "a", 9_000_000)
MORE = Text("real", "b", 1_000_000)
SYNTHETIC = Text("cd", "c", 95_000_000, synthetic=True)


def reading(role: Any, text: Text, epochs: Any = 1) -> Reading:
    return Reading(role, text, Fraction(epochs))


def holds(*readings: Reading) -> dict[str, bool]:
    """Return whether the rules hold, with a tokenizer of the first text."""
    budget = Budget((reading("tokenizer", readings[0].text), *readings))
    return {"strict": not budget.broken(STRICT), "strict-small": not budget.broken(SMALL)}


# ---- the rules ---------------------------------------------------------------------------------


def test_the_union_counts_a_text_once_and_a_synthetic_one_not_at_all() -> None:
    """Tokenizer and GOOD read 9M words, BAD another 1M, the student the 9M and 95M synthetic ones:
    10M source words, exactly what strict-small allows."""
    budget = Budget(
        (
            reading("tokenizer", REAL),
            reading("GOOD", REAL, 5),
            reading("BAD", MORE, 2),
            reading("student", REAL, 7),
            reading("student", SYNTHETIC, 3),
        )
    )
    assert (budget.source_words, budget.synthetic_words) == (10_000_000, 95_000_000)
    assert budget.broken(SMALL) == budget.broken(STRICT) == []
    assert [r.words_read for r in budget.readings] == [
        9_000_000,
        45_000_000,
        2_000_000,
        63_000_000,
        285_000_000,
    ]


@pytest.mark.parametrize(("limit", "track"), [(STRICT, "strict"), (SMALL, "strict-small")])
def test_one_word_over_the_limit_breaks_the_rules(limit: int, track: str) -> None:
    assert holds(reading("student", Text("real", "a", limit)))[track]
    over = (reading("student", Text("real", "a", limit)), reading("tokenizer", Text("t", "t", 1)))
    assert not holds(*over)[track]
    assert Budget(over).broken(limit) == [
        f"the union of all text has {limit + 1:,} source words, 1 too many"
    ]


@pytest.mark.parametrize("role", ["GOOD", "BAD", "student"])
def test_ten_epochs_are_allowed_and_not_a_block_more(role: str) -> None:
    assert holds(reading(role, REAL, 10)) == {"strict": True, "strict-small": True}
    more = reading(role, REAL, Fraction(100_001, 10_000))
    assert holds(more) == {"strict": False, "strict-small": False}
    assert Budget((reading("tokenizer", REAL), more)).broken(STRICT) == [
        f"{role} reads real 10.0001 times over, 10 at most"
    ]


def test_synthetic_text_has_epochs_too() -> None:
    good = reading("GOOD", REAL)
    assert holds(good, reading("student", SYNTHETIC, 10))["strict"]
    assert not holds(good, reading("student", SYNTHETIC, 11))["strict"]


def test_the_tokenizer_and_prompts_have_no_epochs() -> None:
    assert holds(reading("tokenizer", REAL, 11), reading("prompts", MORE, 11))["strict-small"]


def test_a_tokenizer_from_elsewhere_breaks_the_rules() -> None:
    assert Budget((reading("student", REAL),)).broken(STRICT) == [
        "the tokenizer was made elsewhere, of text that is not counted here"
    ]


def test_synthetic_text_of_models_that_are_not_counted_breaks_the_rules() -> None:
    """The student's 95M words may have cost anything, and so may those that GOOD itself read."""
    alone = Budget((reading("tokenizer", REAL), reading("student", SYNTHETIC)))
    assert alone.broken(STRICT) == [
        "student reads cd, and what its models were trained on is not counted here"
    ]
    assert not holds(reading("GOOD", REAL), reading("GOOD", SYNTHETIC))["strict"]


def test_every_reason_is_given() -> None:
    big = Text("real", "a", STRICT + 1)
    reasons = Budget((reading("GOOD", big, 11), reading("BAD", big, 12))).broken(STRICT)
    assert len(reasons) == 4


def test_one_text_cannot_have_two_lengths() -> None:
    with pytest.raises(UsageError, match="9,000,000 words in one run and 8 in another"):
        Budget((reading("GOOD", REAL), reading("BAD", Text("real", "a", 8))))


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=12))
def test_the_union_does_not_depend_on_order_or_repetition(drawn: list[tuple[str, bool]]) -> None:
    readings = [
        reading("GOOD" if good else "BAD", Text(name, name, 10 ** "abcd".index(name)))
        for name, good in drawn
    ]
    union = sum(10 ** "abcd".index(name) for name in {name for name, _ in drawn})
    assert Budget(tuple(readings)).source_words == union
    assert Budget(tuple(readings[::-1] * 2)).source_words == union


# ---- the report --------------------------------------------------------------------------------


def test_the_report_is_written_as_json_and_as_a_table(tmp_path: Path) -> None:
    budget = Budget(
        (
            reading("tokenizer", REAL),
            reading("GOOD", REAL, "10.5"),
            reading("student", SYNTHETIC, "0.5"),
        )
    )
    write_budget(budget, tmp_path)
    found = json.loads((tmp_path / "budget.json").read_text())
    assert (found["source_words"], found["synthetic_words"]) == (9_000_000, 95_000_000)
    assert found["readings"][1]["words_read"] == 94_500_000
    assert found["rules"]["strict"] == {
        "words": STRICT,
        "epochs": 10,
        "broken": ["GOOD reads real 10.5 times over, 10 at most"],
    }
    text = (tmp_path / "budget.md").read_text()
    assert "| student | cd (synthetic) | 95,000,000 | 0.50 | 47,500,000 |" in text
    assert "- strict (100,000,000 words, 10 epochs): does not hold: GOOD reads real" in text
    assert "strict-small (10,000,000 words, 10 epochs): does not hold" in text
    kept = Budget((reading("tokenizer", REAL), reading("GOOD", REAL))).markdown()
    assert "- strict-small (10,000,000 words, 10 epochs): holds\n" in kept
