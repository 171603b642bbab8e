"""The text of a row: documents, the blank lines between them, and where the last one ends."""

from __future__ import annotations

import json

import pytest
from prompt_tokenizers import byte_level, llama_like
from small_corpus import make_tokenizer
from tokenizers import Tokenizer, decoders

from cdgen.corpus.rows import TextRenderer


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([1, 3, 4], "onetwo"),
        ([1, 3, 2], "one"),
        ([1, 3, 2, 1, 4, 5, 2], "one\n\ntwothree"),
        ([1, 3, 2, 4, 2, 2, 1], "one\n\ntwo"),
        ([1, 2], ""),
    ],
)
def test_documents_are_parted_by_blank_lines(tokens: list[int], text: str) -> None:
    assert TextRenderer(make_tokenizer(), {1, 2}).text(tokens) == text


def of_bytes() -> Tokenizer:
    """Return a tokenizer of GPT-2's kind; its letters of Ethiopic are three tokens of a byte
    each."""
    tokenizer = byte_level()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def with_byte_fallback() -> Tokenizer:
    spec = json.loads(llama_like().to_str())  # whose trainer makes the bytes special tokens
    spec["added_tokens"] = spec["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


KINDS = {"byte-level": of_bytes(), "byte fallback": with_byte_fallback()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["the ሰላም", "é€🙂", "a\ufffd", "\ufffdሰ", "the cat", "🙂"])
def test_a_text_cut_at_any_token_ends_with_a_whole_character(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    renderer = TextRenderer(tokenizer, {1, 2})
    for count in range(len(tokens) + 1):
        found = renderer.text([1, *tokens[:count]], is_cut=True)
        assert text.startswith(found.lstrip()), (found, count)
    assert found.lstrip() == text


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_end_of_a_text_that_was_cut_is_mended(kind: str) -> None:
    """Invalid bytes in the middle, a genuine U+FFFD, and the end of a document that ended stay."""
    tokenizer = KINDS[kind]
    tokens = tokenizer.encode("ሰ", add_special_tokens=False).ids
    cut, rest = tokens[:-1], tokenizer.encode(" the", add_special_tokens=False).ids
    renderer = TextRenderer(tokenizer, {1, 2})
    middle = renderer.text([*cut, *rest])
    assert "\ufffd" in middle and renderer.text([*cut, *rest], is_cut=True) == middle
    ended = renderer.text([*cut, 2, *rest])
    assert "\ufffd" in ended and renderer.text([*cut, 2, *rest], is_cut=True) == ended
    genuine = tokenizer.encode("a\ufffd", add_special_tokens=False).ids
    assert renderer.text([*genuine, *cut], is_cut=True).strip() == "a\ufffd"


def test_a_token_of_a_whole_character_and_a_part_of_the_next_keeps_the_first() -> None:
    spec = json.loads(of_bytes().to_str())
    alphabet = spec["model"]["vocab"]
    e, g = "Ã©", "á"  # é, and the first byte of an Ethiopic letter, as `ByteLevel` writes them
    spec["model"]["vocab"] = alphabet | {e + g: len(alphabet)}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    renderer = TextRenderer(tokenizer, set())
    assert renderer.text([len(alphabet)]) == "é\ufffd"
    assert renderer.text([len(alphabet)], is_cut=True) == "é"
