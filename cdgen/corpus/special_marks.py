"""Special tokens that documents spell out, which are text, as everything in a document is."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from cdgen.corpus.documents import DOCUMENT_ENDS
from cdgen.errors import tokenizer_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}  # a model with byte fallback needs their names
_NO_TEXT = "\uffff"  # Unicode promises that no text holds this character


def text_encoder(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy, only for encoding, that takes a special token within a text for text.

    `encode_special_tokens` does that for tokens that stand beside the model. Those in the model's
    own vocabulary, which Unigram prefers to all others, get a name that no text has. Ids stay.
    """
    with tokenizer_errors("the tokenizer cannot be copied"):
        return _without_special_names(json.loads(tokenizer.to_str()))


def _without_special_names(spec: dict[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer

    model, added = spec["model"], spec["added_tokens"]
    special = {token["content"] for token in added if token["special"]}
    renamed = special & _names(model["vocab"]) - _merged(model) - _BYTES
    model["vocab"] = _with_names(model["vocab"], {name: _NO_TEXT + name for name in renamed})
    if model.get("unk_token") in renamed:
        model["unk_token"] = _NO_TEXT + model["unk_token"]
    # They are unknown to the model now and would get new ids: behind the others, which keep theirs.
    spec["added_tokens"] = sorted(added, key=lambda token: token["content"] in renamed)
    copy = Tokenizer.from_str(json.dumps(spec))
    copy.encode_special_tokens = True
    return copy


def _names(vocab: Any) -> set[str]:
    return set(vocab) if isinstance(vocab, dict) else {name for name, _ in vocab}


def _with_names(vocab: Any, new: dict[str, str]) -> Any:
    """Return a vocabulary, ids by name or a list of names and scores, with other names."""
    if isinstance(vocab, dict):
        return {new.get(name, name): token for name, token in vocab.items()}
    return [[new.get(name, name), score] for name, score in vocab]


def _merged(model: dict[str, Any]) -> set[str]:
    """Return the tokens in the merges of a BPE model, which needs their names."""
    merges = model.get("merges") or ()
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
    return {name for pair in pairs for name in (*pair, "".join(pair))}


class SpecialMarks:
    """The special tokens of a tokenizer, and usual end-of-text marks, counted in what is read."""

    def __init__(self, tokenizer: Tokenizer, as_text: bool = True) -> None:
        """`as_text` says how they are read; it matters to the notes alone."""
        self._read_as = "text" if as_text else "special tokens"
        added = tokenizer.get_added_tokens_decoder().values()
        names = {*DOCUMENT_ENDS, *(token.content for token in added if token.special)} - {""}
        longest_first = sorted(names, key=lambda name: (-len(name), name))
        self._any = re.compile("|".join(map(re.escape, longest_first)))
        self.counts = Counter[str]()

    def seen(self, text: str) -> str:
        """Count the marks in `text` and return it."""
        self.counts.update(self._any.findall(text))
        return text

    def notes(self) -> list[str]:
        """Return what is to be said of the marks: nothing if there were none."""
        if not self.counts:
            return []
        shown = ", ".join(f"{count:,} {name}" for name, count in self.counts.most_common(5))
        return [f"special tokens spelled out in documents are read as {self._read_as}: {shown}"]
