from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from cdgen.train.tokenizer import BOS_ID, EOS_ID, PAD_ID, for_transformers, train_tokenizer

TEXTS = ["Once upon a time there was a little cat.", "The little cat sat on the mat."]
TOKENIZER = train_tokenizer(TEXTS, 280)


@given(st.text())
def test_any_text_comes_back_whole(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert ids[0] == BOS_ID
    assert TOKENIZER.decode(ids) == text


def test_merges_are_learned_and_the_vocabulary_has_the_size_asked_for() -> None:
    assert TOKENIZER.get_vocab_size() == 280
    assert len(TOKENIZER.encode(TEXTS[0]).ids) < len(TEXTS[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    for_transformers(TOKENIZER, max_length=64).save_pretrained(path)
    return path


def test_auto_tokenizer_loads_what_was_saved(folder: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded(TEXTS[1]).input_ids == TOKENIZER.encode(TEXTS[1]).ids
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (
        PAD_ID,
        BOS_ID,
        EOS_ID,
    )
    assert loaded.model_max_length == 64
    assert loaded.decode(loaded(TEXTS[1]).input_ids, skip_special_tokens=True) == TEXTS[1]


def test_the_saved_file_alone_gives_the_same_ids(folder: Path) -> None:
    loaded = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert loaded.encode(TEXTS[0]).ids == TOKENIZER.encode(TEXTS[0]).ids
