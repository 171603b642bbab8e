"""Tokens as people read them: single ones by name, and a whole text in pieces of whole
characters."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdgen.corpus.token_bytes import TokenBytes
from cdgen.inspection.positions import Position

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEAK, STRONG = 0.5, 2.0  # nats, from which a difference is shown: factors of 1.6 and 7.4
_VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


@dataclass(frozen=True)
class Piece:
    """The fewest tokens that hold whole characters: usually one, more where a character is spread
    over several."""

    text: str
    first: int  # index of its first token in the sequence
    count: int  # tokens
    difference: float | None  # log p_GOOD - log p_BAD in nats, summed; None without a record or BAD

    @property
    def level(self) -> int:
        """How much GOOD prefers it: 2 and 1 if it does, 0, or -1 and -2 if BAD does."""
        return level(self.difference)


def level(difference: float | None) -> int:
    """Return 2, 1, 0, -1 or -2 for a difference of log-probabilities in nats."""
    if difference is None:
        return 0
    size = (abs(difference) >= WEAK) + (abs(difference) >= STRONG)  # NaN is 0
    return size if difference > 0 else -size


class TokenTexts:
    """The texts of the tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = TokenBytes(tokenizer)

    def text(self, token: int) -> str:
        """Return a token's text; bytes that are no whole character are written \\xe2."""
        return self._bytes.text_of(token).decode(errors="backslashreplace")

    def name(self, token: int | None) -> str:
        """Return a token's text with visible spaces and line ends, its number if it has no text,
        or "?" for None."""
        if token is None:
            return "?"
        return self.text(token).translate(_VISIBLE) or f"#{token}"

    def pieces(self, tokens: Sequence[int], positions: Sequence[Position]) -> list[Piece]:
        """Divide a sequence into pieces. `positions` are the records of all its tokens but the
        first."""
        differences = {record.index: record.difference for record in positions}
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        found, text, first = [], "", 0
        for index, token in enumerate(tokens):
            is_last = index + 1 == len(tokens)
            text += decoder.decode(self._bytes.text_of(token), final=is_last)
            if is_last or not decoder.getstate()[0]:
                own = [differences.get(i) for i in range(first, index + 1)]
                known = [difference for difference in own if difference is not None]
                total = sum(known) if known else None
                found.append(Piece(text, first, len(own), total))
                text, first = "", index + 1
        return found
