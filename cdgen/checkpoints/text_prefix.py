"""What a tokenizer puts before every text, usually BOS or nothing."""

from __future__ import annotations

from tokenizers import Tokenizer

from cdgen.errors import ModelError


def prefix_of(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that the tokenizer's template (its post-processor) puts before a text.

    Where there is a tokenizer.json, transformers follows it too, and not `add_bos_token` in
    tokenizer_config.json. Raises ModelError.
    """
    try:
        encoding = tokenizer.encode("a")
        bare = tokenizer.encode("a", add_special_tokens=False).ids
    except Exception as error:  # the library raises this class itself, nothing narrower
        raise ModelError(f"the tokenizer cannot encode a letter: {error}") from error
    special = encoding.special_tokens_mask
    # A tokenizer without a token for "a" shows no text inside its template: take the template's
    # first token to be the prefix.
    text = special.index(0) if bare and 0 in special else min(1, len(special))
    return encoding.ids[:text]
