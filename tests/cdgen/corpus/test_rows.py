"""The text of a row: documents and the blank lines between them."""

from __future__ import annotations

import pytest
from small_corpus import make_tokenizer

from cdgen.corpus.rows import render_text


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([1, 3, 4], "onetwo"),
        ([1, 3, 2], "one"),
        ([1, 3, 2, 1, 4, 5, 2], "one\n\ntwothree"),
        ([1, 3, 2, 4, 2, 2, 1], "one\n\ntwo"),
        ([1, 2], ""),
    ],
)
def test_documents_are_parted_by_blank_lines(tokens: list[int], text: str) -> None:
    assert render_text(make_tokenizer(), tokens, {1, 2}) == text
