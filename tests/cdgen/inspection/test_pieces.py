"""How tokens are shown: whole characters, visible spaces, bytes of a cut character; and as markup
that no text can break."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cdgen.inspection.pieces import Piece, TokenTexts, level
from cdgen.inspection.positions import DrawnTokens, Position
from cdgen.inspection.spans import contrast_spans, contrast_style


def byte_level() -> Tokenizer:
    """Return a byte-level tokenizer without merges: a token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def with_fallback() -> Tokenizer:
    """Return a tokenizer that spells unknown characters in bytes."""
    names = ["<s>", "▁a", "b", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True)
    )
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def record(index: int, good: float, bad: float | None) -> Position:
    return Position(index, 0, good, bad, 1, True, 1, 0.0, DrawnTokens(0, 0, 0))


def test_a_character_of_four_tokens_is_one_piece() -> None:
    tokenizer = byte_level()
    tokens = tokenizer.encode("a 🦊b").ids
    assert len(tokens) == 7
    records = [record(i, -1.0, -1.5 - i) for i in range(1, 7)]
    pieces = TokenTexts(tokenizer).pieces(tokens, records)
    assert [(p.text, p.first, p.count) for p in pieces] == [
        *[("a", 0, 1), (" ", 1, 1), ("🦊", 2, 4), ("b", 6, 1)]
    ]
    assert [p.difference for p in pieces] == [None, 1.5, 2.5 + 3.5 + 4.5 + 5.5, 6.5]


def test_a_cut_character_ends_the_last_piece() -> None:
    tokenizer = byte_level()
    tokens = tokenizer.encode("a🦊").ids[:3]
    assert [p.text for p in TokenTexts(tokenizer).pieces(tokens, [])] == ["a", "\ufffd"]
    assert TokenTexts(tokenizer).pieces([], []) == []


def test_bytes_that_begin_no_character_join_what_follows() -> None:
    tokenizer = byte_level()
    lead, letter = tokenizer.encode("é").ids[0], tokenizer.encode("b").ids[0]
    assert [p.text for p in TokenTexts(tokenizer).pieces([lead, letter], [])] == ["\ufffdb"]


def test_names_show_spaces_and_bytes() -> None:
    tokenizer = byte_level()
    texts = TokenTexts(tokenizer)
    assert [texts.name(token) for token in tokenizer.encode("é \n\t").ids] == [
        *["\\xc3", "\\xa9", "␣", "↵", "⇥"]
    ]
    assert texts.name(None) == "?" and texts.name(999) == "#999"
    fallback = TokenTexts(with_fallback())
    assert [fallback.name(token) for token in (0, 1, 2, 3 + 0xE2)] == ["<s>", "␣a", "b", "\\xe2"]


def test_spaces_and_fallback_bytes_make_a_text() -> None:
    tokens = [0, 1, 3 + 0xC3, 3 + 0xA9, 2]
    pieces = TokenTexts(with_fallback()).pieces(tokens, [])
    assert [piece.text for piece in pieces] == ["<s>", " a", "é", "b"]


@pytest.mark.parametrize(
    ("difference", "expected"),
    [(None, 0), (float("nan"), 0), (0.49, 0), (0.5, 1), (2.0, 2), (-0.5, -1), (-1e9, -2)],
)
def test_levels(difference: float | None, expected: int) -> None:
    assert level(difference) == expected


def test_spans_escape_and_join_equal_levels() -> None:
    pieces = [
        Piece("<script>", 0, 1, None),
        Piece("&\x1b[31m", 1, 1, 0.1),
        Piece(' "good', 2, 1, 0.6),
        Piece("er'", 3, 1, 1.9),
        Piece("worse\n", 4, 1, -3.0),
    ]
    assert contrast_spans(pieces) == (
        "&lt;script&gt;&amp;\\u001b[31m"
        '<span class="good-1"> &#34;gooder&#39;</span><span class="bad-2">worse\n</span>'
    )
    assert ".bad-2" in contrast_style()
