"""Surprisals of words agree with a plain scorer and with the pipeline; bad files are named."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from plain_scorer import PlainScorer
from transformers import AutoTokenizer

from cdgen.errors import UsageError
from cdgen.eval.modes import MODES
from cdgen.eval.scoring.scorer import Scorer
from cdgen.eval.scoring.spans import SpanEncoder, Spans
from cdgen.eval.tasks.reading import Reading, read_words, surprisals
from cdgen.eval.tasks.reading_regressions import SELF_PACED, Regressions

pytestmark = pytest.mark.usefixtures("one_thread")

# Largest difference between float32 and float64 sums of up to ten log-probabilities.
SAME = 2e-4


def no_scores(spans: Spans) -> np.ndarray:
    return -np.ones(len(spans))


@pytest.fixture(scope="module")
def scorer(stories260k: Any) -> Scorer:
    return Scorer(stories260k.good, "cpu")


NONE = 320  # the file lacks the context "None" of this word; the pipeline puts it there


@pytest.fixture(scope="module")
def some(real_csv: Path) -> list[int]:
    """Return the indices of every 29th word, of the word that lacks its context, and of the word
    after it."""
    with real_csv.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert not lines[NONE]["item"] and lines[NONE]["sentence"].startswith("None of the")
    follows = next(i for i, line in enumerate(lines) if line["prev_item"] == "None")
    return [*range(0, len(lines), 29), NONE, follows]


def as_pandas_reads(path: Path, some: list[int]) -> pd.DataFrame:
    """Read the file as the pipeline does: empty fields and the text "None" are missing; `item` is
    repaired."""
    frame = pd.read_csv(path, dtype={"item": str})
    return frame.assign(item=frame["item"].fillna("None")).iloc[some]


def test_a_words_surprisal_is_the_sum_over_its_tokens(
    stories260k: Any, scorer: Scorer, real_csv: Path, some: list[int]
) -> None:
    encoder, plain = SpanEncoder(stories260k.good, True, 512), PlainScorer(stories260k.good)
    rows = [read_words(real_csv)[index] for index in some]
    found, before = surprisals(rows, encoder, scorer.span_sums, as_pipeline=False)

    def expected(context: str, word: str) -> float:
        return -plain.score(f"{context} {word}", f" {word}")

    frame = as_pandas_reads(real_csv, some)
    own = [expected(*pair) for pair in zip(frame["item"], frame["word"], strict=True)]
    np.testing.assert_allclose(found, own, rtol=0, atol=SAME)
    previous = [
        expected(row["prev_item"], row["prev_word"]) if row["prev_item"] else math.nan
        for row in rows
    ]
    np.testing.assert_allclose(before, previous, rtol=0, atol=SAME)


def get_p2(context: str, word: str, plain: PlainScorer, tokenizer: Any) -> tuple[float, int]:
    """Return the pipeline's probability of a word, and the number of its factors.

    The first factor is that of the first piece after the context. Each further piece is decoded and
    tokenized again; its first token is the next factor, after the context with the earlier pieces
    glued on without a space.
    """
    pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
    log_probs = plain.log_probs(tokenizer(context)["input_ids"])[-1]
    p = math.exp(log_probs[pieces[0]])
    context += tokenizer.decode(pieces[0])
    for piece in pieces[1:]:
        text = tokenizer.decode(piece)
        token = tokenizer(text, add_special_tokens=False)["input_ids"][0]
        p *= math.exp(plain.log_probs(tokenizer(context)["input_ids"])[-1][token])
        context += text
    return p, len(pieces)


def test_compat_takes_the_pipelines_steps(
    stories260k: Any, scorer: Scorer, real_csv: Path, some: list[int]
) -> None:
    encoder, plain = SpanEncoder(stories260k.good, False, None), PlainScorer(stories260k.good)
    tokenizer = AutoTokenizer.from_pretrained(stories260k.good)
    rows, frame = [read_words(real_csv)[index] for index in some], as_pandas_reads(real_csv, some)
    found, before = surprisals(rows, encoder, scorer.span_sums, as_pipeline=True)
    pairs = zip(frame["item"], frame["word"], strict=True)
    official = [get_p2(*pair, plain, tokenizer) for pair in pairs]
    np.testing.assert_allclose(found, [-math.log(p) for p, _ in official], rtol=0, atol=SAME)
    assert max(steps for _, steps in official) > 2
    previous = [
        -math.log(get_p2(context, word, plain, tokenizer)[0]) if isinstance(context, str) else None
        for context, word in zip(frame["prev_item"], frame["prev_word"], strict=True)
    ]
    np.testing.assert_allclose(before, np.array(previous, float), rtol=0, atol=SAME)
    assert rows[-1]["prev_item"] == "None" and previous[-1] is None
    proper, _ = surprisals(rows, encoder, scorer.span_sums, as_pipeline=False)
    assert np.abs(proper - found).max() > 1, "the pipeline's is not the word's surprisal"


@pytest.mark.parametrize(("compat", "missing"), [(False, 205), (True, 206)])
def test_words_without_a_word_before_them(
    real_csv: Path, llama: Path, compat: bool, missing: int
) -> None:
    encoder, rows = SpanEncoder(llama, True, None), read_words(real_csv)
    found, before = surprisals(rows, encoder, no_scores, compat)
    assert len(found) == 1726 and not np.isnan(found).any()
    assert np.isnan(before).sum() == missing


def test_a_pair_that_comes_twice_is_scored_once_and_for_both(llama: Path) -> None:
    word = {"item": "The old", "word": "cat", "prev_item": "The", "prev_word": "old"}
    rows = [word, {**word, "item": "The", "word": "old", "prev_item": ""}, word]
    asked = []

    def scores(spans: Spans) -> np.ndarray:
        asked.append(len(spans))
        return -np.arange(1.0, len(spans) + 1)

    found, before = surprisals(rows, SpanEncoder(llama, True, None), scores, as_pipeline=False)
    assert asked == [2]
    assert found.tolist() == [1, 2, 1]
    assert before[0] == before[2] == 2 and math.isnan(before[1])


def test_predictions_and_their_collation(real_csv: Path, llama: Path) -> None:
    task = Reading(read_words(real_csv)[:40], SpanEncoder(llama, True, None), MODES["default"])
    rows = task.predict(lambda spans: -np.arange(1.0, len(spans) + 1))
    assert all(row["uid"] == "reading" and row["scores"] == [-row["pred"]] for row in rows)
    assert [row["index"] for row in rows] == list(range(40))
    lines = [json.loads(json.dumps(row, allow_nan=False)) for row in rows]
    assert math.isfinite(Regressions(lines).gain("self_paced", np.ones(40, np.int64)))
    (collated,) = task.collated(rows).values()
    entries = collated["reading"]["predictions"]
    assert list(collated) == ["reading"]
    assert entries[19] == {"id": 19, "pred": 20.0, "prev_pred": None}  # "Roger smiled"


# ---- the file ----------------------------------------------------------------------------------


def test_a_byte_order_mark_is_no_part_of_a_column(real_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + real_csv.read_bytes())
    assert repr(read_words(tmp_path / "bom.csv")) == repr(read_words(real_csv))


def test_the_real_file(real_csv: Path) -> None:
    rows = read_words(real_csv)
    assert len(rows) == 1726
    assert rows[0] == {
        "item": "Arthur placed",
        "word": "the",
        "prev_item": "Arthur",
        "prev_word": "placed",
        "Subtlex_log10": 14.222246857765809,
        "length": 3,
        "context_length": 2,
        "prev_length": 6,
        "RTfirstfix": 71.14285714285714,
        "RTfirstpass": 75.80952380952381,
        "RTgopast": 102.95238095238096,
        "RTrightbound": 86.57142857142857,
        "self_paced_reading_time": 296.1666666666667,
    }
    assert rows[4]["item"] == "Good God, if you are" and rows[4]["word"] == "watching,"
    assert sum(math.isnan(row["Subtlex_log10"]) for row in rows) == 30


@pytest.fixture
def refusal(real_csv: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a function that changes the first lines of the real file and returns the error."""

    def refused(change: Callable[[list[str]], None]) -> str:
        lines = real_csv.read_text().splitlines()[:8]
        change(lines)
        path = tmp_path / "reading_data.csv"
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape") + b"\n")
        with pytest.raises(UsageError) as error:
            read_words(path)
        assert str(path) in str(error.value)
        return str(error.value)

    return refused


def put(line: int, column: str, value: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        fields = next(csv.reader([lines[line - 1]]))
        fields[next(csv.reader([lines[0]])).index(column)] = value
        lines[line - 1] = ",".join(f'"{field}"' for field in fields)

    return change


@pytest.mark.parametrize("column", ["length", "RTgopast", "prev_length", SELF_PACED])
def test_a_value_that_is_not_a_number(refusal: Callable[..., str], column: str) -> None:
    assert "line 6" in refusal(put(6, column, "many"))


@pytest.mark.parametrize("column", ["word", "prev_word"])
def test_a_word_that_is_not_there(refusal: Callable[..., str], column: str) -> None:
    assert "line 6" in refusal(put(6, column, ""))


def test_a_missing_column_is_named(refusal: Callable[..., str]) -> None:
    for column in ("RTgopast", "prev_word"):
        assert column in refusal(put(1, column, "renamed"))


def test_a_line_cut_short(refusal: Callable[..., str]) -> None:
    """It does not pass for a line with missing values."""

    def change(lines: list[str]) -> None:
        lines[5] = ",".join(lines[5].split(",")[:12])

    assert "line 6" in refusal(change)


def test_a_comma_that_nobody_quoted(refusal: Callable[..., str]) -> None:
    def change(lines: list[str]) -> None:
        lines[5] += ",and more"

    assert "line 6" in refusal(change)


def test_blank_lines_count_as_lines(refusal: Callable[..., str]) -> None:
    def change(lines: list[str]) -> None:
        put(6, "length", "many")(lines)
        lines.insert(4, "")

    assert "line 7" in refusal(change)


def test_invalid_utf8(refusal: Callable[..., str]) -> None:
    def change(lines: list[str]) -> None:
        lines[5] = lines[5].replace(",", ",\udcff", 1)

    assert "line 6" in refusal(change)


def test_no_file_and_no_rows(refusal: Callable[..., str], tmp_path: Path) -> None:
    def header_alone(lines: list[str]) -> None:
        del lines[1:]

    assert "one row per word" in refusal(header_alone)
    with pytest.raises(UsageError, match="missing"):
        read_words(tmp_path / "missing/reading_data.csv")
