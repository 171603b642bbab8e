"""First tokens: a document cut early has the tokens of the whole, or is not cut."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_tokenizers import KINDS, TEXT, TOKENIZER, in_full
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from cdgen.corpus.first_tokens import _head, first_tokens, splits_at_spaces

# Pieces that tempt a tokenizer to look across a space: spaces in a row, marks that stand for
# spaces, contractions, special tokens, letters that no merge knows, combining accents.
PIECES = (
    " ",
    "  ",
    "the",
    "cat",
    "sat",
    "'s",
    "'",
    "1984",
    "7",
    ".",
    "é",
    "e\u0301",
    "\u0301",
    "▁",
    "Ġ",
    "猫",
    "мама",
    "\t",
    "\u00a0",
    "<s>",
    "</s>",
    "s>",
    "<",
    "\x1c",
    "🙂",
)
texts = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=texts, count=st.integers(1, 12), head=st.integers(0, 12))
def test_heads_are_the_heads_of_the_whole(kind: str, text: str, count: int, head: int) -> None:
    tokenizer = KINDS[kind]
    assert splits_at_spaces(tokenizer)
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    begun = tokenizer.encode(_head(text, head), add_special_tokens=False).ids
    assert whole[: len(begun)] == begun
    ids = in_full(tokenizer, text, 1, count)
    assert list(first_tokens([text], tokenizer, [1], count)) == [ids]


def test_long_documents_are_cut_and_stay_the_same() -> None:
    documents = [" ".join(TEXT * n) for n in (1, 100, 200)] + ["x" * 9000, "a b" * 5000]
    for tokenizer in KINDS.values():
        for count in (3, 700):
            expected = [in_full(tokenizer, text, None, count) for text in documents]
            assert list(first_tokens(documents, tokenizer, [], count)) == expected


def without_proof(change: Callable[[Tokenizer], object], kind: str = "byte-level") -> bool:
    tokenizer = Tokenizer.from_str(KINDS[kind].to_str())
    change(tokenizer)
    return not splits_at_spaces(tokenizer)


def test_no_shortcut_without_a_proof() -> None:
    def set_part(part: str, value: object) -> Callable[[Tokenizer], object]:
        return lambda tokenizer: setattr(tokenizer, part, value)

    no_regex = pre_tokenizers.ByteLevel(use_regex=False)
    split = pre_tokenizers.Split("cat ", "isolated")
    assert without_proof(set_part("pre_tokenizer", no_regex))
    assert without_proof(set_part("pre_tokenizer", pre_tokenizers.Sequence([split, no_regex])))
    assert without_proof(set_part("pre_tokenizer", split), "llama")
    assert without_proof(set_part("normalizer", normalizers.Replace("cat ", "dog")))
    assert without_proof(set_part("normalizer", normalizers.NFC()), "llama")
    assert without_proof(lambda t: t.add_tokens([AddedToken("two words")]))
    assert without_proof(lambda t: t.add_tokens([AddedToken("<x>", lstrip=True)]))
    merged = json.loads(KINDS["llama"].to_str())
    merged["model"]["vocab"]["t▁the"] = len(merged["model"]["vocab"])
    assert not splits_at_spaces(Tokenizer.from_str(json.dumps(merged)))


def test_the_callers_tokenizer_is_left_alone_and_its_truncation_ignored() -> None:
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    before = tokenizer.to_str()
    (ids,) = first_tokens([TEXT[0]], tokenizer, [], 9)
    assert ids == in_full(TOKENIZER, TEXT[0], None, 9)
    assert tokenizer.to_str() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_that_is_spelled_out_is_text(kind: str) -> None:
    tokenizer = Tokenizer.from_str(KINDS[kind].to_str())
    assert tokenizer.encode("the</s>", add_special_tokens=False).ids[-1] == 2
    (ids,) = first_tokens(["the</s>cat"], tokenizer, [], 20)
    assert ids == in_full(KINDS[kind], "the</s>cat", None, 20)
    assert not {0, 1, 2} & set(ids)
