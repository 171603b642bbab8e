"""The first tokens of documents, without tokenizing whole books."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cdgen.corpus.special_marks import text_encoder
from cdgen.errors import tokenizer_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The pieces in which a byte-level tokenizer of `cdgen train` merges bytes. They are GPT-2's, but a
# mark (\p{M}, as the vowel signs of Hindi) or a joiner within a word belongs to the word, and a
# mark after a symbol to the symbol.
BYTE_LEVEL_PIECES = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}][\p{L}\p{M}\x{200C}\x{200D}]*| ?\p{N}+"
    r"| ?[^\s\p{L}\p{M}\p{N}][^\s\p{L}\p{N}]*|\s+(?!\S)|\s+"
)
_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 1 << 20
_HEAD_CHARACTERS = 4096


def first_tokens(
    documents: Iterable[str], tokenizer: Tokenizer, prefix: Sequence[int], count: int
) -> Iterator[list[int]]:
    """Yield the first `count` ids of `prefix` (usually BOS, or nothing) + each document: none for a
    document without any token.

    The tokenizer's own template, truncation and padding play no part, and a special token that a
    document spells out is text.
    """
    tokenizer = text_encoder(tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    prefix = list(prefix[:count])
    needed = count - len(prefix)
    heads_suffice = splits_at_spaces(tokenizer)
    head_characters = max(_HEAD_CHARACTERS, 16 * count)

    def encode(texts: list[str]) -> list[list[int]]:
        with tokenizer_errors("the tokenizer cannot encode a document"):
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids[:needed] for encoding in encodings]

    for batch in _batches(documents):
        heads = [_head(text, head_characters) for text in batch] if heads_suffice else batch
        for text, head, ids in zip(batch, heads, encode(heads), strict=True):
            if len(ids) < needed and head is not text:
                ids = encode([text])[0]
            yield [*prefix, *ids]


def _head(text: str, length: int) -> str:
    """Return `text` up to a single space between two words, at about `length` characters."""
    cut = re.compile(r"[^\s▁](?= \S)").search(text, length) if len(text) > length else None
    return text[: cut.end()] if cut else text


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Return whether a text cut at a space between two words has the first ids of the whole text.

    If so, only the first page of a book is tokenized. This is proven for two kinds of tokenizer:
    GPT-2's regular expression, and ours, begin a new piece there whatever follows, and
    SentencePiece-like BPE has no token that reaches across the space. Return False for all others.
    """
    spec = json.loads(tokenizer.to_str())
    steps = _steps(spec["normalizer"], "normalizers")
    pieces = _steps(spec["pre_tokenizer"], "pretokenizers")
    added = spec["added_tokens"]
    if any(t["lstrip"] or t["rstrip"] or t["single_word"] or " " in t["content"] for t in added):
        return False
    if pieces and pieces[-1]["type"] == "ByteLevel":
        local = all(step["type"] == "NFC" for step in steps)
        if pieces[-1]["use_regex"]:
            return local and all(piece["type"] == "Digits" for piece in pieces[:-1])
        return local and pieces[:-1] == [_OUR_SPLIT]
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if pieces or mark not in steps or any(s["type"] != "Prepend" for s in steps if s != mark):
        return False
    model = spec["model"]
    affixes = (model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix"))
    if model["type"] != "BPE" or model["dropout"] or any(affixes):
        return False
    return "▁" in model["vocab"] and not any("▁" in t.lstrip("▁") for t in model["vocab"])


_OUR_SPLIT = {
    "type": "Split",
    "pattern": {"Regex": BYTE_LEVEL_PIECES},
    "behavior": "Isolated",
    "invert": False,
}


def _steps(spec: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if spec is None:
        return []
    return list(spec[key]) if spec["type"] == "Sequence" else [spec]


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Group documents; bound both their number and the characters held in memory."""
    batch: list[str] = []
    size = 0
    for document in documents:
        if batch and (len(batch) == _BATCH_DOCUMENTS or size + len(document) > _BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document)
    if batch:
        yield batch
