"""A character of several bytes that the end of a token sequence cuts in two."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a token of one byte, for byte fallback
_TAIL_TOKENS = 8  # a cut character has at most three bytes, and so at most three tokens with text


class CutCharacter:
    """How the tokens of one tokenizer spell bytes: each token's text in the alphabet of GPT-2
    (`ByteLevel`), or one byte a token (`ByteFallback`)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        decoder = json.loads(tokenizer.to_str())["decoder"] or {"type": None}
        kinds = {step["type"] for step in decoder.get("decoders", [decoder])}
        self._tokenizer = tokenizer
        self._has_bytes = "ByteFallback" in kinds
        self._alphabet = _byte_alphabet() if "ByteLevel" in kinds else {}
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token for token, entry in added.items() if entry.special}  # no text

    def without(self, tokens: Sequence[int]) -> tuple[Sequence[int], bool]:
        """Return the tokens without those that are bytes of a cut character; and whether the last
        token still ends with such bytes, which decode to one U+FFFD."""
        tail = [token for token in tokens[-_TAIL_TOKENS:] if token not in self._special]
        cut = _incomplete(b"".join(map(self._bytes, tail)))
        if not (cut and self._has_bytes):
            return tokens, cut > 0
        return [token for token in tokens if token not in self._special][:-cut], False

    def _bytes(self, token: int) -> bytes:
        text = self._tokenizer.id_to_token(token) or ""
        if self._has_bytes and (byte := _BYTE.fullmatch(text)):
            return bytes.fromhex(byte[1])
        if self._alphabet and all(character in self._alphabet for character in text):
            return bytes(map(self._alphabet.__getitem__, text))
        return text.encode()


def _incomplete(tail: bytes) -> int:
    """Return the number of bytes at the end that begin a character of UTF-8 and do not end it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(tail)
    return len(decoder.getstate()[0])


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of `ByteLevel`: a printable byte is its own character, the
    others have the characters from U+0100 on, in their order."""
    from tokenizers.pre_tokenizers import ByteLevel

    characters = sorted(ByteLevel.alphabet())
    own = {character: ord(character) for character in characters if ord(character) < 256}
    others = [byte for byte in range(256) if byte not in own.values()]
    return own | dict(zip(characters[len(own) :], others, strict=True))
