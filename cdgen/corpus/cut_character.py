"""A character of several bytes that the end of a token sequence cuts in two."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cdgen.corpus.token_bytes import TokenBytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TAIL_TOKENS = 8  # a cut character has at most three bytes, and so at most three tokens with text


class CutCharacter:
    """The end of token sequences of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = TokenBytes(tokenizer)

    def without(self, tokens: Sequence[int]) -> tuple[Sequence[int], bool]:
        """Return the tokens without those that are bytes of a cut character; and whether the last
        token still ends with such bytes, which decode to one U+FFFD."""
        special = self._bytes.special
        tail = [token for token in tokens[-_TAIL_TOKENS:] if token not in special]
        cut = _incomplete(b"".join(map(self._bytes.of, tail)))
        if not (cut and self._bytes.falls_back):
            return tokens, cut > 0
        return [token for token in tokens if token not in special][:-cut], False


def _incomplete(tail: bytes) -> int:
    """Return the number of bytes at the end that begin a character of UTF-8 and do not end it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(tail)
    return len(decoder.getstate()[0])
