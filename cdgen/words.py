"""Words and sentence ends in the text of any language, by properties of Unicode's characters.

What whitespace separates is a word, as in BabyLM's budgets. Scripts that are written without spaces
between words are divided further, by the default rules of Unicode's annex 29, which need no
dictionary: an ideograph or a hiragana with its marks is a word, so is a run of katakana, and so is,
in Thai, Lao, Khmer or Burmese, a letter with its marks. Punctuation stays with the word beside it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regex import Pattern

# Letters of scripts without spaces between words: Han and other ideographs, kana, and the scripts
# of South-East Asia in which lines break between words or syllables (line break classes SA, AK,
# AS).
_UNSPACED = (
    r"\p{Ideographic}\p{sc=Han}\p{sc=Hiragana}\p{WB=Katakana}"
    r"[\p{lb=SA}\p{lb=AK}\p{lb=AS}&&\p{L}]"
)
_SEPARATORS = r"\u1361\u0f0b"  # the Ethiopic word space and the Tibetan tsheg: words end there
_LONGEST = 1000  # characters of a word in `split_spaced_words`; encoded data may be one of millions

# A full stop (Sentence_Break=ATerm), and the ! and ? of ASCII, end a sentence if a space follows,
# for they may stand inside one; the other marks (STerm, as in Chinese, Hindi or Amharic) always do.
# Quotes and brackets after them belong to the sentence.
_END = r"(?:[\p{SB=ATerm}!?]\p{SB=Close}*(?=\s|\Z)|[\p{SB=STerm}--[!?]]\p{SB=Close}*)"


@cache
def _compiled(pattern: str) -> Pattern[str]:
    import regex  # takes 50 ms, which `cdgen --help` spares

    return regex.compile(pattern, regex.VERSION1 | regex.DOTALL)


def split_words(text: str) -> list[str]:
    """Return the words of a text; joined, they are the text without its whitespace."""
    return text.split() if _is_spaced(text) else _compiled(_word("+")).findall(text)


def split_spaced_words(text: str) -> list[str]:
    """Return the words of a text with the whitespace around them; joined, they are the text.

    A word longer than _LONGEST characters is divided.
    """
    limit = f"{{1,{_LONGEST}}}"
    word = rf"\S{limit}" if _is_spaced(text) else _word(limit)
    return _compiled(rf"\s*(?:{word})\s*|\s+").findall(text)


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text with the whitespace after them; joined, they are the text."""
    sentences, start = [], 0
    for end in _compiled(rf"{_END}\s*").finditer(text):
        sentences.append(text[start : end.end()])
        start = end.end()
    return [*sentences, text[start:]] if start < len(text) else sentences


def ends_sentence(text: str) -> bool:
    return _compiled(rf"{_END}\s*\Z").search(text) is not None


def join_unspaced(text: str) -> str:
    """Join lines that break within a script without spaces; elsewhere a line end is a space, as in
    CSS Text 3, section 4.1.3."""
    if _is_spaced(text):
        return text
    wide = rf"[{_UNSPACED}\p{{ea=W}}\p{{ea=F}}]"
    return _compiled(rf"(?<={wide})[^\S\n]*\n[^\S\n]*(?={wide})").sub("", text)


def _is_spaced(text: str) -> bool:
    """Return whether whitespace alone separates the words of a text."""
    return text.isascii() or not _compiled(f"[{_UNSPACED}{_SEPARATORS}]").search(text)


def _word(times: str) -> str:
    """Return the pattern of a word; `times` bounds the letters of a script with spaces."""
    marks = rf"[^\w\s{_SEPARATORS}]*+"  # punctuation
    letter = rf"(?:\p{{WB=Katakana}}+|[{_UNSPACED}])[\p{{M}}\p{{Cf}}\p{{WB=Extend}}]*"
    other = rf"[\S--[{_UNSPACED}{_SEPARATORS}]]{times}[{_SEPARATORS}]*"
    return rf"{marks}{letter}[{_SEPARATORS}]*{marks}|{other}|[{_SEPARATORS}]+"
