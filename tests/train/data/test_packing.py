"""Every token of the packed blocks: none lost, none added, no false end of a text."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cdgen.train.data import packing
from cdgen.train.data.documents import Document
from cdgen.train.data.packing import (
    encode,
    pack,
    read_and_taught,
    training_blocks,
)
from cdgen.train.data.tokenizer import (
    SpecialIds,
    special_ids,
    train_sentencepiece,
    train_tokenizer,
)

TOKENIZERS = [
    train(["the cat sat on the mat"], 280) for train in (train_tokenizer, train_sentencepiece)
]
SPECIAL = SpecialIds(pad=3, bos=1, eos=2)
ALIKE = SpecialIds(pad=None, bos=2, eos=2)  # as GPT-2 has it
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
    """None of the texts is complete, so the first token of each but the first is not taught."""
    blocks = pack(sequences, block_size, SPECIAL)
    stream = [
        ~token if number and not place else token
        for number, sequence in enumerate(sequences)
        for place, token in enumerate(sequence)
    ]
    assert blocks.dtype == np.int32
    assert blocks.shape[1] == block_size
    assert blocks.ravel()[: len(stream)].tolist() == stream
    padding = blocks.ravel()[len(stream) :].tolist()
    assert len(padding) < block_size
    assert padding == [~3] * len(padding)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["byte-level", "sentencepiece"])
@given(documents=DOCUMENTS, block_size=st.integers(2, 17))
def test_only_a_complete_document_gets_an_end_of_text(
    tokenizer: Tokenizer, documents: list[Document], block_size: int
) -> None:
    special = special_ids(tokenizer)
    blocks = pack(encode(tokenizer, special, documents), block_size, special)
    read, taught = (t.ravel().tolist() for t in read_and_taught(torch.from_numpy(blocks).long()))
    at, ended = 0, True
    for document in documents:
        text = tokenizer.encode(document.text, add_special_tokens=False).ids
        assert not set(text) & {special.pad, special.bos, special.eos}
        expected = [special.bos, *text] + ([special.eos] if document.complete else [])
        assert read[at : at + len(expected)] == expected
        # What follows a text that was cut off is no sign of its end.
        assert taught[at : at + len(expected)] == [special.bos if ended else -100, *expected[1:]]
        at, ended = at + len(expected), document.complete
    assert set(read[at:]) <= {special.pad} and set(taught[at:]) <= {-100}


def test_a_token_that_ends_and_begins_texts_appears_once_between_them() -> None:
    texts = [[2, 5, 6, 2], [2, 7, 2], [2, 8], [2, 9, 2]]
    assert pack(texts, 4, ALIKE).tolist() == [[2, 5, 6, 2], [7, 2, 8, ~2], [9, 2, ~2, ~2]]
    without_bos = SpecialIds(pad=None, bos=None, eos=2)
    assert pack([[5, 2], [6], [7, 2]], 5, without_bos).tolist() == [[5, 2, 6, ~7, 2]]


@pytest.mark.parametrize("special", [SPECIAL, ALIKE], ids=["SPECIAL", "ALIKE"])
def test_sequences_without_text_are_skipped(special: SpecialIds) -> None:
    """An empty sequence is skipped, and so is the single token of an empty text that was cut
    off."""
    texts = [[], [2, 7, 2], [2], [], [2, 8, 2]]
    expected = [[2, 7, 2, 8, 2]] if special is ALIKE else [[2, 7, 2, 2, 2, 8, 2]]
    assert pack(texts, len(expected[0]), special).tolist() == expected
    assert pack([[], []], 4, special).shape == (0, 4)


@given(DOCUMENTS)
def test_encoding_in_batches_changes_nothing(documents: list[Document]) -> None:
    special = special_ids(TOKENIZERS[0])
    whole = encode(TOKENIZERS[0], special, documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_ENCODED_AT_ONCE", 3)
        parts = encode(TOKENIZERS[0], special, documents)
    assert [s.tolist() for s in parts] == [s.tolist() for s in whole]


def test_an_epoch_repeats_each_source_as_often_as_asked() -> None:
    first = [[1, 10 + i, 2] for i in range(5)]
    second = [[1, 20 + i, 2] for i in range(4)]
    blocks = training_blocks([(first, 3), (second, 1)], 3, SPECIAL, seed=0)
    counts = Counter(map(tuple, blocks.tolist()))
    assert counts == Counter({tuple(s): 3 for s in first} | {tuple(s): 1 for s in second})


def test_the_order_of_an_epoch_follows_the_seed() -> None:
    source = [([[i, 2] for i in range(100)], 1)]
    order = training_blocks(source, 10, SPECIAL, seed=0)
    assert np.array_equal(order, training_blocks(source, 10, SPECIAL, seed=0))
    assert not np.array_equal(order, training_blocks(source, 10, SPECIAL, seed=1))
