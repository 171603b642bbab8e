"""The bytes that tokens spell: a token may hold a part of a character only."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a token of one byte, for byte fallback
_SPACE = "▁"  # stands for a space in tokenizers like SentencePiece's


class TokenBytes:
    """How the tokens of one tokenizer spell bytes: each token's text in the alphabet of GPT-2
    (`ByteLevel`), or one byte a token (`ByteFallback`)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        decoder = json.loads(tokenizer.to_str())["decoder"] or {"type": None}
        self._steps: list[dict[str, Any]] = decoder.get("decoders", [decoder])
        kinds = {step["type"] for step in self._steps}
        self.falls_back = "ByteFallback" in kinds
        self._alphabet = _byte_alphabet() if "ByteLevel" in kinds else {}
        added = tokenizer.get_added_tokens_decoder()
        self.special = {token for token, entry in added.items() if entry.special}  # no text

    def of(self, token: int) -> bytes:
        """Return the bytes of a token, as UTF-8; none for an id that the tokenizer lacks."""
        text = self._tokenizer.id_to_token(token) or ""
        if self.falls_back and (byte := _BYTE.fullmatch(text)):
            return bytes.fromhex(byte[1])
        if self._alphabet and all(character in self._alphabet for character in text):
            return bytes(map(self._alphabet.__getitem__, text))
        return text.encode()

    def text_of(self, token: int) -> bytes:
        """Return the bytes of a token as they stand in a text: with its spaces as spaces."""
        own = self.of(token)
        if token in self.special or not self._marks_spaces:
            return own
        return own.replace(_SPACE.encode(), b" ")

    @cached_property
    def _marks_spaces(self) -> bool:
        return any(
            step["type"] == "Metaspace" or step.get("pattern") == {"String": _SPACE}
            for step in self._steps
        )


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of `ByteLevel`: a printable byte is its own character, the
    others have the characters from U+0100 on, in their order."""
    from tokenizers.pre_tokenizers import ByteLevel

    characters = sorted(ByteLevel.alphabet())
    own = {character: ord(character) for character in characters if ord(character) < 256}
    others = [byte for byte in range(256) if byte not in own.values()]
    return own | dict(zip(characters[len(own) :], others, strict=True))
