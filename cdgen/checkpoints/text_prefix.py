"""What a tokenizer puts before every text, usually BOS or nothing."""

from __future__ import annotations

from tokenizers import Tokenizer

from cdgen.errors import tokenizer_errors


def prefix_of(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that the tokenizer's template (its post-processor) puts before a text.

    Where there is a tokenizer.json, transformers follows it too, and not `add_bos_token` in
    tokenizer_config.json. Raises ModelError.
    """
    with tokenizer_errors("the tokenizer cannot encode a letter"):
        encoding = tokenizer.encode("a")
        bare = tokenizer.encode("a", add_special_tokens=False).ids
    special = encoding.special_tokens_mask
    # A tokenizer without a token for "a" shows no text inside its template: take the template's
    # first token to be the prefix.
    text = special.index(0) if bare and 0 in special else min(1, len(special))
    return encoding.ids[:text]
