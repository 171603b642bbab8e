"""What reaches the model: the documents read, the split, and every token of the packed blocks."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.errors import UsageError
from cdgen.train.config import Source
from cdgen.train.data import (
    Document,
    encode,
    pack,
    read_documents,
    split_documents,
    training_blocks,
)
from cdgen.train.tokenizer import BOS_ID, EOS_ID, PAD_ID, train_tokenizer

TOKENIZER = train_tokenizer(["the cat sat on the mat"], 260)
SEQUENCES = st.lists(st.lists(st.integers(EOS_ID + 1, 999), min_size=1, max_size=40), max_size=20)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        text=st.text(max_size=30) | st.sampled_from(["a</s>b", "<s>", "<pad><pad>"]),
        work=st.just("work"),
        complete=st.booleans(),
    ),
    max_size=12,
)


def write_source(folder: Path, text: str, **fields: object) -> Source:
    with lzma.open(folder / "text.xz", "wt", encoding="utf-8") as file:
        file.write(text)
    defaults = {"name": "source", "path": "text.xz", "licence": "none", "validation": 1}
    return Source.model_validate(defaults | fields)


@given(SEQUENCES, st.integers(1, 17))
def test_packing_keeps_every_token_once_and_in_order(
    sequences: list[list[int]], block_size: int
) -> None:
    blocks = pack(sequences, block_size)
    stream = [token for sequence in sequences for token in sequence]
    assert blocks.dtype == np.int32
    assert blocks.shape[1] == block_size
    assert blocks.ravel()[: len(stream)].tolist() == stream
    padding = blocks.ravel()[len(stream) :].tolist()
    assert len(padding) < block_size
    assert padding == [PAD_ID] * len(padding)


@given(DOCUMENTS, st.integers(2, 17))
def test_only_a_complete_document_gets_an_end_of_text(
    documents: list[Document], block_size: int
) -> None:
    stream = pack(encode(TOKENIZER, documents), block_size).ravel().tolist()
    at = 0
    for document in documents:
        text = TOKENIZER.encode(document.text, add_special_tokens=False).ids
        assert not set(text) & {PAD_ID, BOS_ID, EOS_ID}
        expected = [BOS_ID, *text] + ([EOS_ID] if document.complete else [])
        assert stream[at : at + len(expected)] == expected
        at += len(expected)
    assert set(stream[at:]) <= {PAD_ID}


def test_an_epoch_repeats_each_source_as_often_as_asked() -> None:
    first = [[BOS_ID, 10 + i, EOS_ID] for i in range(5)]
    second = [[BOS_ID, 20 + i, 20 + i] for i in range(4)]
    blocks = training_blocks([(first, 3), (second, 1)], block_size=3, seed=0)
    counts = Counter(map(tuple, blocks.tolist()))
    assert counts == Counter({tuple(s): 3 for s in first} | {tuple(s): 1 for s in second})


def test_the_order_of_an_epoch_follows_the_seed() -> None:
    source = [([[i] for i in range(100)], 1)]
    order = training_blocks(source, 10, seed=0)
    assert np.array_equal(order, training_blocks(source, 10, seed=0))
    assert not np.array_equal(order, training_blocks(source, 10, seed=1))


@given(st.integers(1, 9), st.integers(0, 100))
def test_the_split_holds_out_whole_works(validation: int, seed: int) -> None:
    documents = [Document(f"chapter {i}", f"book {i % 10}") for i in range(30)]
    train, held_out = split_documents(documents, validation, seed)
    assert sorted(d.text for d in train + held_out) == sorted(d.text for d in documents)
    assert len({d.work for d in held_out}) == validation
    assert not {d.work for d in train} & {d.work for d in held_out}
    reversed_split = split_documents(documents[::-1], validation, seed)
    assert reversed_split == (train[::-1], held_out[::-1])


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(UsageError, match="held out"):
        split_documents([Document("text", "only work")], 1, seed=0)


def test_the_last_story_is_cut_off_unless_its_end_is_marked(tmp_path: Path) -> None:
    text = "One day.\n“Hi!” he said.\n<|endoftext|>\nOnce upon a ti"
    stories = read_documents(write_source(tmp_path, text, format="stories"), tmp_path)
    assert [(s.text, s.complete) for s in stories] == [
        ('One day.\n"Hi!" he said.', True),
        ("Once upon a ti", False),
    ]
    assert stories[0].work != stories[1].work


def test_a_book_becomes_chapters_of_whole_paragraphs(tmp_path: Path) -> None:
    text = "## I\n\nThere were\nfour _little_ rabbits.\n\n* * *\n\nThey ran.\n\n##  II\n\nThe end."
    books = [
        {"author": "B. P.", "title": title, "year": "1902", "text": text} for title in ("A", "B")
    ]
    lines = "\n".join(map(json.dumps, books)) + "\n"
    source = write_source(tmp_path, lines, format="books", titles=["B"])
    assert read_documents(source, tmp_path) == [
        Document("There were four little rabbits.\nThey ran.", "B. P.: B"),
        Document("The end.", "B. P.: B"),
    ]


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (None, {"format": "stories"}, "cannot read"),
        (b"not xz", {"format": "stories"}, "not xz-compressed"),
        (lzma.compress(b"text" * 999)[:-20], {"format": "stories"}, "not xz-compressed"),
        (lzma.compress(b"\xff\xfe"), {"format": "stories"}, "not xz-compressed"),
        (lzma.compress(b"not json\n"), {"format": "books"}, "expected JSON lines"),
        (lzma.compress(b'{"title": "A"}\n'), {"format": "books"}, "expected JSON lines"),
        (lzma.compress(b"[1]\n"), {"format": "books"}, "expected JSON lines"),
        (lzma.compress(b""), {"format": "books", "titles": ["A"]}, r"no book is called \['A'\]"),
    ],
    ids=[
        "missing",
        "not xz",
        "truncated",
        "not utf-8",
        "not json",
        "no text",
        "no object",
        "unknown title",
    ],
)
def test_bad_files_are_refused(
    tmp_path: Path, content: bytes | None, fields: dict[str, object], message: str
) -> None:
    source = write_source(tmp_path, "", **fields)
    if content is None:
        (tmp_path / source.path).unlink()
    else:
        (tmp_path / source.path).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_documents(source, tmp_path)
