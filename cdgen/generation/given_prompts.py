"""Prompts that a program gives: texts, or lists of token ids."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeAlias, cast

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.first_tokens import first_tokens
from cdgen.corpus.special_marks import SpecialMarks
from cdgen.errors import UsageError
from cdgen.generation.config import SequenceConfig
from cdgen.generation.inputs import prompt_prefix, require_known_token

Prompts: TypeAlias = Iterable[str] | Iterable[Sequence[int]]
_EXPECTED = "prompts: expected an iterable of texts, or of lists of token ids"


def token_ids(prompts: Prompts, config: SequenceConfig, pair: Pair) -> list[list[int]]:
    """Return the ids of every prompt.

    A text becomes the first `config.prompt_tokens` tokens of the document, as for `--prompts`;
    token ids stay as they are. Raises UsageError if there is no prompt, one is empty, or one holds
    a token that a model has no row for.
    """
    if isinstance(prompts, str):
        raise UsageError(f"{_EXPECTED}, got a single text: put it into a list")
    given = list(prompts)
    if not given:
        raise UsageError(f"{_EXPECTED}, got none")
    texts = [prompt for prompt in given if isinstance(prompt, str)]
    if texts and len(texts) < len(given):
        raise UsageError(f"{_EXPECTED}, got both")
    found = _of_texts(texts, config, pair) if texts else [_ids(p) for p in given]
    for number, ids in enumerate(found):
        if not ids or min(ids) < 0:
            wrong = "has no token" if not ids else f"holds the token {min(ids)}"
            raise UsageError(f"prompt {number} {wrong}: leave it out")
        require_known_token(number, max(ids), pair)
    return found


def _of_texts(texts: list[str], config: SequenceConfig, pair: Pair) -> list[list[int]]:
    marks, prefix = SpecialMarks(pair.tokenizer), prompt_prefix(config, pair)
    seen = [marks.seen(text) for text in texts]
    for note in marks.notes():
        print(f"prompts: {note}", file=sys.stderr)
    for number, text in enumerate(texts):
        if not text.strip():
            raise UsageError(f"prompt {number} is blank: leave it out")
    return [*first_tokens(seen, pair.tokenizer, prefix, config.prompt_tokens)]


def _ids(prompt: object) -> list[int]:
    """Return a list, an array or a tensor [T] as a list of integers."""
    values = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    if not isinstance(values, Sequence) or not all(isinstance(value, int) for value in values):
        raise UsageError(f"{_EXPECTED}, got {prompt!r:.60}")
    return cast(list[int], [*values])
