"""Corpora of `cdgen generate` as training sequences: documents whole, no EOS that is not true."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from toy_run import generate_demo_corpus

from cdgen.cli.demo import ASSETS
from cdgen.errors import StorageError, UsageError
from cdgen.storage import read_record, write_record
from cdgen.train.data.documents import Document
from cdgen.train.data.synthetic import (
    ended,
    manifest_sha256,
    split_row,
    split_text,
    synthetic_sequences,
)
from cdgen.train.data.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    SpecialIds,
    tokenizer_from_json,
    train_tokenizer,
)

pytestmark = pytest.mark.usefixtures("one_thread")

PAIR = ASSETS / "demo-pair"
MADE_IDS = SpecialIds(PAD_ID, BOS_ID, EOS_ID)


def test_a_row_is_split_where_documents_end() -> None:
    stops = {EOS_ID, 77}
    for row, expected in (
        ([BOS_ID, 5, 6], [[BOS_ID, 5, 6]]),  # cut off: no EOS
        ([BOS_ID, 5, EOS_ID], [[BOS_ID, 5, EOS_ID]]),
        ([BOS_ID, 5, EOS_ID, 6], [[BOS_ID, 5, EOS_ID], [BOS_ID, 6]]),
        ([BOS_ID, 5, EOS_ID, BOS_ID, 6, 77], [[BOS_ID, 5, EOS_ID], [BOS_ID, 6, EOS_ID]]),
        ([5, BOS_ID, 6], [[BOS_ID, 5], [BOS_ID, 6]]),
        ([BOS_ID, EOS_ID, EOS_ID], []),
    ):
        assert split_row(row, stops, MADE_IDS) == expected


def test_a_false_end_follows_only_what_was_cut_off() -> None:
    cut_off, whole = (np.array(row, dtype=np.int32) for row in ([1, 5, 6], [1, 5, EOS_ID]))
    found = ended(cut_off, MADE_IDS)
    assert found.tolist() == [1, 5, 6, EOS_ID] and found.dtype == np.int32
    assert ended(whole, MADE_IDS) is whole


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a small corpus of the bundled pair whose rows end at EOS or continue after it."""
    made: dict[str, Path] = {}

    def folder(on_eos: str) -> Path:
        if on_eos not in made:
            out = tmp_path_factory.mktemp(on_eos) / "out"
            made[on_eos] = generate_demo_corpus(out, max_new_tokens=230, on_eos=on_eos)
        return made[on_eos]

    return folder


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [
        row for path in sorted((out / "data").iterdir()) for row in pq.read_table(path).to_pylist()
    ]


@pytest.mark.parametrize("on_eos", ["stop", "continue"])
def test_sequences_have_every_token_once_in_order_and_no_false_end(
    corpus: Callable[[str], Path], on_eos: str
) -> None:
    out, tokenizer = corpus(on_eos), Tokenizer.from_file(str(PAIR / "good/tokenizer.json"))
    sequences, notes = synthetic_sequences(out, tokenizer, MADE_IDS)
    assert not notes
    rows = rows_of(out)
    special = {BOS_ID, EOS_ID}
    kept = [token for sequence in sequences for token in sequence if token not in special]
    assert kept == [token for row in rows for token in row["tokens"] if token not in special]
    ends = sum(row["tokens"].count(EOS_ID) for row in rows)
    assert sum(sequence[-1] == EOS_ID for sequence in sequences) == ends > 0
    assert any(row["finish_reason"] == "length" for row in rows)
    assert all(sequence[0] == BOS_ID and EOS_ID not in sequence[:-1] for sequence in sequences)


def test_another_tokenizer_reads_the_text_again(corpus: Callable[[str], Path]) -> None:
    rows = rows_of(corpus("stop"))
    other = train_tokenizer([row["text"] for row in rows], 300)
    sequences, notes = synthetic_sequences(corpus("stop"), other, MADE_IDS)
    assert notes == ["another tokenizer's corpus, tokenized again from its text"]
    for row, sequence in zip(rows, sequences, strict=True):
        assert other.decode(sequence) == row["text"]
        assert (sequence[-1] == EOS_ID) == (row["finish_reason"] == "eos")


def changed_tokenizer(change: Callable[[dict[str, int], list[Any]], None]) -> Tokenizer:
    """Return the pair's tokenizer with other vocabulary and merges."""
    state = json.loads((PAIR / "good/tokenizer.json").read_text(encoding="utf-8"))
    change(state["model"]["vocab"], state["model"]["merges"])
    return tokenizer_from_json(json.dumps(state))


def test_a_larger_vocabulary_is_another_tokenizer(corpus: Callable[[str], Path]) -> None:
    """It has more merges than GOOD's: its rows decode alike, but it would not have written them."""
    rows = rows_of(corpus("stop"))

    def more(vocabulary: dict[str, int], merges: list[Any]) -> None:
        names = {index: name for name, index in vocabulary.items()}
        for left, right in pairwise(names[token] for row in rows for token in row["tokens"]):
            if right.isalpha() and right.isascii() and left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append([left, right])

    student = changed_tokenizer(more)
    assert student.decode(rows[0]["tokens"]) == rows[0]["text"]
    sequences, notes = synthetic_sequences(corpus("stop"), student, MADE_IDS)
    assert notes
    assert len(sequences[0]) < len(rows[0]["tokens"])


def test_a_smaller_vocabulary_is_another_tokenizer(corpus: Callable[[str], Path]) -> None:
    """It lacks the highest id of the rows, and those above it."""
    highest = max(token for row in rows_of(corpus("stop")) for token in row["tokens"])

    def fewer(vocabulary: dict[str, int], merges: list[Any]) -> None:
        for token in [t for t, index in vocabulary.items() if index >= highest]:
            del vocabulary[token]
            merges.pop()

    sequences, notes = synthetic_sequences(corpus("stop"), changed_tokenizer(fewer), MADE_IDS)
    assert notes and max(map(max, sequences)) < highest


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tokenizer_sha256": ""}, "its manifest does not say which tokenizer made it"),
        ({"eos_token_ids": [77]}, "its documents end with another token"),
    ],
)
def test_a_corpus_whose_tokens_cannot_be_trusted_is_tokenized_again(
    corpus: Callable[[str], Path], tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    out = Path(shutil.copytree(corpus("stop"), tmp_path / "copy"))
    record = read_record(out / "manifest.json")
    write_record(out / "manifest.json", {**record, "plan": {**record["plan"], **fields}})
    tokenizer = Tokenizer.from_file(str(PAIR / "good/tokenizer.json"))
    _, notes = synthetic_sequences(out, tokenizer, MADE_IDS)
    assert notes[0] == f"{says}, tokenized again from its text"


def test_tokenized_again_documents_end_where_they_ended(corpus: Callable[[str], Path]) -> None:
    """The rows continue after an end-of-text."""
    rows = rows_of(corpus("continue"))
    student = train_tokenizer([row["text"] for row in rows], 300)
    sequences, notes = synthetic_sequences(corpus("continue"), student, MADE_IDS)
    assert len(notes) == 1
    ends = sum(row["tokens"].count(EOS_ID) for row in rows)
    assert sum(sequence[-1] == EOS_ID for sequence in sequences) == ends > 0
    assert not any(EOS_ID in sequence[:-1] for sequence in sequences)
    texts = [part for row in rows for part in row["text"].split("\n\n")]
    assert [student.decode(sequence) for sequence in sequences] == texts


@pytest.mark.parametrize(
    ("text", "tokens", "ends"),
    [
        ("a", [BOS_ID, 5], [False]),
        ("a", [BOS_ID, 5, EOS_ID], [True]),
        ("a", [BOS_ID, 5, EOS_ID, BOS_ID], [True]),  # cut off behind the BOS of the next
        ("a", [EOS_ID, 5, EOS_ID], [True]),  # as GPT-2 has it
        ("a\n\nb", [BOS_ID, 5, 9, 6, EOS_ID], [True]),  # a blank line within the only document
        ("a\n\nb", [BOS_ID, 5, EOS_ID, 6], [True, False]),
        ("a\n\nb", [BOS_ID, 5, 77, BOS_ID, 6, EOS_ID], [True, True]),
        ("a\n\nb", [5, EOS_ID, 6, 5], [True, False]),  # no BOS: the first token comes again
        ("a\n\nb\n\nc", [BOS_ID, 5, 9, 6, EOS_ID, BOS_ID, 7], None),
        ("", [BOS_ID, EOS_ID], []),
    ],
)
def test_a_text_is_split_where_its_tokens_have_ends(
    text: str, tokens: list[int], ends: list[bool] | None
) -> None:
    found = split_text(text, tokens, {EOS_ID, 77})
    if ends is None:
        assert found is None
        return
    parts = [text] * len(ends) if len(ends) < 2 else text.split("\n\n")
    assert found == [Document(p, complete=end) for p, end in zip(parts, ends, strict=True)]


def test_a_row_that_cannot_be_divided_stays_whole_and_is_counted(
    corpus: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a\n\nb\n\nc", "tokens": [BOS_ID, 5, 9, 6, EOS_ID, 7, EOS_ID]},
        {"text": "a\n\nb\n\nc", "tokens": [BOS_ID, 5, 9, 6, EOS_ID, 7]},
        {"text": "a\n\nc", "tokens": [BOS_ID, 5, EOS_ID, 7]},
    ]
    given = [{**row, "finish_reason": "length"} for row in rows]
    monkeypatch.setattr("cdgen.train.data.synthetic.corpus_rows", lambda *_: iter(given))
    student = train_tokenizer(["a b c"], 270)
    sequences, (_, note) = synthetic_sequences(corpus("continue"), student, MADE_IDS)
    assert note.startswith("2 of 3 rows hold a blank line within a document")
    assert [(student.decode(s), s[-1] == EOS_ID) for s in sequences] == [
        ("a\n\nb\n\nc", True),
        ("a\n\nb\n\nc", False),
        ("a", True),
        ("c", False),
    ]


@pytest.mark.parametrize("harm", ["missing", "changed", "stray"])
def test_a_corpus_is_what_its_manifest_lists(
    corpus: Callable[[str], Path], tmp_path: Path, harm: str
) -> None:
    out = Path(shutil.copytree(corpus("stop"), tmp_path / "copy"))
    tokenizer = Tokenizer.from_file(str(PAIR / "good/tokenizer.json"))
    whole, _ = synthetic_sequences(out, tokenizer, MADE_IDS)
    (file,) = (out / "data").iterdir()
    few = pq.read_table(file).slice(0, 4)
    pq.write_table(few, out / "data/zz.parquet" if harm == "stray" else file)
    if harm == "stray":
        found, _ = synthetic_sequences(out, tokenizer, MADE_IDS)
        assert [s.tolist() for s in found] == [s.tolist() for s in whole]
        return
    if harm == "missing":
        file.unlink()
    with pytest.raises(StorageError, match=file.name):
        synthetic_sequences(out, tokenizer, MADE_IDS)


def test_a_folder_that_is_no_finished_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="finalized"):
        manifest_sha256(tmp_path)
