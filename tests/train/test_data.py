"""Every token of the packed blocks: none lost, none added, no false end of a text."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cdgen.train import data
from cdgen.train.data import Document, encode, pack, training_blocks
from cdgen.train.tokenizer import special_ids, train_sentencepiece, train_tokenizer

TOKENIZERS = [
    train(["the cat sat on the mat"], 280) for train in (train_tokenizer, train_sentencepiece)
]
PAD = 3
SEQUENCES = st.lists(st.lists(st.integers(4, 999), min_size=1, max_size=40), max_size=20)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        text=st.text(max_size=30) | st.sampled_from(["a</s>b", "<s>", "<pad><pad>", "<unk>"]),
        complete=st.booleans(),
    ),
    max_size=12,
)


@given(SEQUENCES, st.integers(1, 17))
def test_packing_keeps_every_token_once_and_in_order(
    sequences: list[list[int]], block_size: int
) -> None:
    blocks = pack(sequences, block_size, PAD)
    stream = [token for sequence in sequences for token in sequence]
    assert blocks.dtype == np.int32
    assert blocks.shape[1] == block_size
    assert blocks.ravel()[: len(stream)].tolist() == stream
    padding = blocks.ravel()[len(stream) :].tolist()
    assert len(padding) < block_size
    assert padding == [PAD] * len(padding)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["byte-level", "sentencepiece"])
@given(documents=DOCUMENTS, block_size=st.integers(2, 17))
def test_only_a_complete_document_gets_an_end_of_text(
    tokenizer: Tokenizer, documents: list[Document], block_size: int
) -> None:
    special = special_ids(tokenizer)
    blocks = pack(encode(tokenizer, documents), block_size, special.pad)
    stream, at = blocks.ravel().tolist(), 0
    for document in documents:
        text = tokenizer.encode(document.text, add_special_tokens=False).ids
        assert not set(text) & {special.pad, special.bos, special.eos}
        expected = [special.bos, *text] + ([special.eos] if document.complete else [])
        assert stream[at : at + len(expected)] == expected
        at += len(expected)
    assert set(stream[at:]) <= {special.pad}


@given(DOCUMENTS)
def test_encoding_in_batches_changes_nothing(documents: list[Document]) -> None:
    whole = encode(TOKENIZERS[0], documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_ENCODED_AT_ONCE", 3)
        parts = encode(TOKENIZERS[0], documents)
    assert [s.tolist() for s in parts] == [s.tolist() for s in whole]


def test_an_epoch_repeats_each_source_as_often_as_asked() -> None:
    first = [[1, 10 + i, 2] for i in range(5)]
    second = [[1, 20 + i, 20 + i] for i in range(4)]
    blocks = training_blocks([(first, 3), (second, 1)], 3, PAD, seed=0)
    counts = Counter(map(tuple, blocks.tolist()))
    assert counts == Counter({tuple(s): 3 for s in first} | {tuple(s): 1 for s in second})


def test_the_order_of_an_epoch_follows_the_seed() -> None:
    source = [([[i] for i in range(100)], 1)]
    order = training_blocks(source, 10, PAD, seed=0)
    assert np.array_equal(order, training_blocks(source, 10, PAD, seed=0))
    assert not np.array_equal(order, training_blocks(source, 10, PAD, seed=1))
