"""Special tokens that documents spell out, which are text, as everything in a document is."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from cdgen.corpus.documents import DOCUMENT_ENDS

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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
