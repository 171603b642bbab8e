"""Reading tokenizer.json, the one file of a checkpoint that a parser in native code reads whole."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from cdgen.checkpoints.checkpoint import reading
from cdgen.errors import ModelError, tokenizer_errors

_MAX_BYTES = 256 << 20  # the largest known, of 262,144 tokens, has 33 MB
_MAX_ID = (1 << 24) - 1  # writing a tokenizer out takes memory for every id below the largest


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer in a file. Raises ModelError.

    The file may ask for truncation and padding, which would cut or pad every text, to any length;
    both are off.
    """
    with reading(path.parent):
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ModelError(
                f"{path} is too large to be a tokenizer: {size} bytes, expected at most"
                f" {_MAX_BYTES}; save it again"
            )
        content = path.read_bytes()
    with tokenizer_errors(f"{path} is not a usable tokenizer"):
        tokenizer = Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest > _MAX_ID:
        raise ModelError(
            f"{path}: expected token ids up to {_MAX_ID}, got {largest}: save the tokenizer again"
        )
    return tokenizer
