from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import NFC
from tokenizers.processors import ByteLevel
from transformers import AutoTokenizer

from cdgen.corpus.first_tokens import splits_at_spaces
from cdgen.errors import UsageError
from cdgen.train.data.tokenizer import (
    BOS_ID,
    EOS_ID,
    MADE,
    PAD_ID,
    SpecialIds,
    SpecialNames,
    for_transformers,
    load_tokenizer,
    special_ids,
    train_sentencepiece,
    train_tokenizer,
)

TEXTS = ["Once upon a time there was a little cat.", "The little cat sat on the mat."]
TOKENIZER = train_tokenizer(TEXTS, 280)
PIECES = train_sentencepiece(TEXTS, 300)


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


@given(st.text() | st.sampled_from(["<0x41>", "</s>", "<unk><pad>", " a", "a\n\n b "]))
def test_sentencepiece_gives_any_text_back_as_nfc(text: str) -> None:
    """The mark that stands for a space comes back as a space, as in SentencePiece. NFC is that of
    `tokenizers`, because Python's may know a later Unicode."""
    tokens = PIECES.encode(text).ids
    assert tokens[0] == 1 and not set(tokens[1:]) & {0, 1, 2, 3}
    assert PIECES.decode(tokens) == NFC().normalize_str(text).replace("\u2581", " ")


def test_sentencepiece_keeps_what_looks_different() -> None:
    """NFKC would divide Thai's vowel AM and lose ligatures and full-width letters."""
    for text in ("น้ำใจ", "\ufb01n \uff21", "²"):
        assert PIECES.decode(PIECES.encode(text).ids) == text
    assert PIECES.decode(PIECES.encode("e\u0301").ids) == "é"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("हिन्दी में लिखा", ["हिन्दी", " में", " लिखा"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("the cat's  e\u0301a\n", ["the", " cat", "'s", " ", " e\u0301a", "\n"]),
        ("I ❤️ 12 👩\u200d👧!", ["I", " ❤️", " 12", " 👩\u200d👧!"]),
    ],
)
def test_a_mark_belongs_to_its_word(text: str, pieces: list[str]) -> None:
    spans = TOKENIZER.pre_tokenizer.pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in spans] == pieces


def test_a_hindi_word_can_become_one_token() -> None:
    tokenizer = train_tokenizer(["विद्यार्थी पढ़ता है"] * 50, 400)
    assert len(tokenizer.encode("विद्यार्थी", add_special_tokens=False).ids) == 1


@given(st.text(st.sampled_from("aé ́ ि\u200d\u200c1.❤️\n'sक"), max_size=30))
def test_only_the_first_page_of_a_book_is_tokenized(text: str) -> None:
    """A text cut at a space has the first tokens of the whole, so `first_tokens` may cut it."""
    assert splits_at_spaces(TOKENIZER)
    whole = TOKENIZER.encode(text, add_special_tokens=False).ids
    for space in re.finditer(r"(?<=\S) (?=\S)", text):
        begun = TOKENIZER.encode(text[: space.start()], add_special_tokens=False).ids
        assert whole[: len(begun)] == begun


def test_sentencepiece_has_the_ids_of_the_paper() -> None:
    assert [PIECES.id_to_token(i) for i in range(4)] == ["<unk>", "<s>", "</s>", "<pad>"]
    assert special_ids(PIECES) == SpecialIds(pad=3, bos=1, eos=2)
    assert special_ids(TOKENIZER) == SpecialIds(PAD_ID, BOS_ID, EOS_ID)
    assert PIECES.get_vocab_size() == 300
    assert PIECES.encode("the cat", add_special_tokens=False).tokens[0].startswith("\u2581")


@pytest.mark.parametrize("size", [261, 270, 290])
@pytest.mark.parametrize("train", [train_tokenizer, train_sentencepiece])
def test_the_vocabulary_is_never_larger_than_asked_for(train: type, size: int) -> None:
    many = [chr(code) * 2 for code in range(0x400, 0x500)]
    tokenizer = train(many, size)
    assert tokenizer.get_vocab_size() == size
    assert tokenizer.decode(tokenizer.encode(many[-1]).ids) == many[-1]


def test_sentencepiece_survives_saving_and_loading(tmp_path: Path) -> None:
    for_transformers(PIECES, max_length=64).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = f"{TEXTS[0]}\n\u00e9<0x41>"
    assert loaded(text).input_ids == PIECES.encode(text).ids
    assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == text
    assert (loaded.pad_token_id, loaded.unk_token_id) == (3, 0)
    again, names = load_tokenizer(tmp_path, 300)
    assert names == MADE
    for spelled in (text, "a</s>b"):
        assert again.encode(spelled).ids == PIECES.encode(spelled).ids


def test_an_existing_tokenizer_without_a_template_is_saved_with_one(tmp_path: Path) -> None:
    """Training puts BOS before every text, so the tokenizer of the trained model does."""
    bare = Tokenizer.from_str(TOKENIZER.to_str())
    bare.post_processor = ByteLevel()
    before = bare.to_str()
    for_transformers(bare, 64).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a cat").input_ids[0] == BOS_ID
    assert bare.to_str() == before
    for_transformers(bare, 64, SpecialNames(None, None, "</s>")).save_pretrained(tmp_path / "none")
    assert AutoTokenizer.from_pretrained(tmp_path / "none")("a cat").input_ids[0] != BOS_ID


def test_a_tokenizer_without_the_special_tokens_is_refused(tmp_path: Path) -> None:
    for_transformers(PIECES, max_length=64).save_pretrained(tmp_path)
    renamed = PIECES.to_str().replace("<pad>", "<fill>")
    (tmp_path / "tokenizer.json").write_text(renamed, encoding="utf-8")
    with pytest.raises(UsageError, match="has no <pad>, which its tokenizer"):
        load_tokenizer(tmp_path, 300)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UsageError, match="names no eos_token"):
        load_tokenizer(tmp_path, 300)


def test_special_tokens_are_those_that_transformers_would_take(tmp_path: Path) -> None:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": {"content": "</s>"}, "bos_token": "</s>"}))
    tokenizer, names = load_tokenizer(tmp_path, 300)
    assert special_ids(tokenizer, names) == SpecialIds(pad=None, bos=EOS_ID, eos=EOS_ID)
    for_transformers(tokenizer, 64, names).save_pretrained(tmp_path / "again")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (None, 2, 2)
    config.write_text(json.dumps({"eos_token": "</s>", "bos_token": None}))
    assert special_ids(*load_tokenizer(tmp_path, 300)).bos is None
