"""Documents: splitting running text into them, and cleaning their text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from cdgen.words import (
    ends_sentence,
    join_unspaced,
    split_sentences,
    split_spaced_words,
    split_words,
)

TEXT_END = "<|endoftext|>"
_TITLE = re.compile(r"= = = (?!=)(.*?)(?: = = =)?\s*")  # more marks: a heading inside an article
_HEADING = re.compile(r"^#+ .*$", re.MULTILINE)
_ASIDE = re.compile(r"\[(?:Illustration|Footnote)[^\]]*\]")
# Turn quotation marks, dashes and the ellipsis into ASCII; drop invisible spaces and emphasis. The
# marks of a pair, whichever a language opens or closes with, become one.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
        **dict.fromkeys("\u2018\u2019\u201a\u201b", "'"),
        **dict.fromkeys("\u200b\u2060_", ""),
        "\u2013": "-",
        "\u2014": "--",
        "\u2026": "...",
        "\xa0": " ",
    }
)

TextAndEnd = tuple[str, bool]  # a document's text; True if it is complete, False if it was cut off
Lines = Iterable[str]


@dataclass(frozen=True)
class Document:
    """A text that is encoded as one sequence, and assigned as a whole to one part of the split."""

    text: str
    work: str = ""  # for example a book, all chapters of which go to one part of the split
    complete: bool = True  # False: the text was cut off, so no end-of-text follows it

    @property
    def identity(self) -> str:
        """Return what decides the part: the work, or else the text."""
        return self.work or self.text


def split_lines(split: str, lines: Lines, ended: bool, words: int = 0) -> Iterator[TextAndEnd]:
    """Yield the documents of `lines` that have visible text, and whether each is complete.

    `split` and `words` are those of a Source. Marks between documents belong to none of them.
    `ended` says that the last line ends the last document.
    """
    if split == "length":
        documents = _by_length(lines, words, ended)
    else:
        documents = _complete_but_last(_SPLITTERS[split](lines), ended)
    return ((stripped, end) for text, end in documents if (stripped := text.strip()))


def _complete_but_last(texts: Iterator[str], ended: bool) -> Iterator[TextAndEnd]:
    """Mark every document but the last as complete: the next one has begun."""
    text = next(texts, "")
    for after in texts:
        yield text, True
        text = after
    yield text, ended


def _rows(lines: Lines) -> Iterator[str]:
    yield "\n".join(lines)


def _at_blank_lines(lines: Lines) -> Iterator[str]:
    document: list[str] = []
    for line in lines:
        if line.strip():
            document.append(line)
        elif document:
            yield "\n".join(document)
            document = []
    yield "\n".join(document)


def _at_marks(lines: Lines) -> Iterator[str]:
    document: list[str] = []
    for line in lines:
        part, *others = line.split(TEXT_END)
        document.append(part)
        for other in others:
            yield "\n".join(document)
            document = [other]
    yield "\n".join(document)


def _at_titles(lines: Lines) -> Iterator[str]:
    """Split at titles. BabyLM's Simple Wikipedia marks an article's first line like its title, so a
    marked line that is longer than the title right above it is not a title."""
    document: list[str] = []
    lone_title = False  # the document is nothing but a title
    for line in lines:
        title = _TITLE.fullmatch(line)
        if title and not (lone_title and len(title[1]) > len(document[0])):
            yield "\n".join(document)
            document, lone_title = [title[1]], True
        else:
            document.append(title[1] if title else line)
            lone_title = lone_title and not line.strip()
    yield "\n".join(document)


def _chapters(lines: Lines) -> Iterator[str]:
    yield from _HEADING.split("\n".join(lines))


_SPLITTERS: dict[str, Callable[[Lines], Iterator[str]]] = {
    "rows": _rows,
    "blank_lines": _at_blank_lines,
    "endoftext": _at_marks,
    "titles": _at_titles,
    "chapters": _chapters,
}


def _by_length(lines: Lines, words: int, ended: bool) -> Iterator[TextAndEnd]:
    """Split at the first sentence end after `words` words, or else before 2 x `words`.

    Only the last piece can be complete: after the others the text continues.
    """
    piece: list[str] = []
    count = 0
    for text, size, is_end in _fragments(lines, words):
        if count + size > 2 * words:
            yield "".join(piece), False
            piece, count = [], 0
        piece.append(text)
        count += size
        if count >= words and is_end:
            yield "".join(piece), False
            piece, count = [], 0
    yield "".join(piece), ended


def _fragments(lines: Lines, words: int) -> Iterator[tuple[str, int, bool]]:
    """Yield sentences, or parts of at most `words` words: text, words, and whether a sentence ends
    there."""
    for line in lines:
        for sentence in split_sentences(f"{line}\n"):
            tokens = split_spaced_words(sentence)
            for start in range(0, len(tokens), words):
                part = tokens[start : start + words]
                is_last = start + words >= len(tokens)
                size = len(part) if sentence.strip() else 0
                yield "".join(part), size, is_last and ends_sentence(sentence)


def split_long_text(text: str, words: int) -> list[str]:
    """Return `text` whole if it has fewer than `words` words, else the pieces that `length` makes
    of it."""
    if len(split_words(text)) < words:
        return [text]
    return [piece for piece, _ in split_lines("length", text.split("\n"), True, words)]


def clean_text(text: str, unit: str) -> str:
    """Clean one text per `unit`, "lines" or "paragraphs"; drop lines without a letter or digit,
    such as rules and rows of stars."""
    text = _ASIDE.sub("", text.translate(_PLAIN))
    parts = re.split("\n" if unit == "lines" else r"\n\s*\n", text)
    joined = (" ".join(join_unspaced(part).split()) for part in parts)
    return "\n".join(line for line in joined if any(c.isalnum() for c in line))
