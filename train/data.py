"""From text files to blocks of tokens: documents, the held-out split, packing."""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from cdgen.errors import UsageError
from cdgen.train.config import Source
from cdgen.train.tokenizer import EOS_ID, PAD_ID

STORY_END = "<|endoftext|>"
_HEADING = re.compile(r"^#+ .*$", re.MULTILINE)
_ASIDE = re.compile(r"\[(?:Illustration|Footnote)[^\]]*\]")
# Quotation marks, dashes and the ellipsis become ASCII; invisible spaces and emphasis marks go.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("\u201c\u201d", '"'),
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u200b\u2060_", ""),
        "\u2013": "-",
        "\u2014": "--",
        "\u2026": "...",
        "\xa0": " ",
    }
)


@dataclass(frozen=True)
class Document:
    text: str
    work: str  # what the held-out split keeps together: a story, or all chapters of one book
    complete: bool = True  # False: the text was cut off, so no end-of-text follows it


def read_documents(source: Source, data_dir: Path) -> list[Document]:
    """Raises UsageError when the file is missing, damaged, or lacks a title the recipe names."""
    path = data_dir / source.path
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            text = file.read()
        return _stories(text) if source.format == "stories" else _books(text, source.titles)
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; is the data folder right?"
        ) from error
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not xz-compressed UTF-8 text: {error}") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: expected JSON lines of author, title, text: {error!r}"
        ) from error


def _stories(text: str) -> list[Document]:
    *whole, rest = text.split(STORY_END)
    stories = [(part, True) for part in whole] + [(rest, False)]
    return [
        Document(cleaned, f"story {number}", complete)
        for number, (part, complete) in enumerate(stories)
        if (cleaned := _clean(part, paragraph_break="\n"))
    ]


def _books(lines: str, titles: tuple[str, ...]) -> list[Document]:
    books = [json.loads(line) for line in lines.split("\n") if line]
    if missing := set(titles) - {book["title"] for book in books}:
        raise UsageError(f"no book is called {sorted(missing)}; correct the titles in the recipe")
    return [
        Document(cleaned, f"{book['author']}: {book['title']}")
        for book in books
        if not titles or book["title"] in titles
        for chapter in _HEADING.split(book["text"])
        if (cleaned := _clean(chapter, paragraph_break=r"\n\s*\n"))
    ]


def _clean(text: str, *, paragraph_break: str) -> str:
    """One paragraph per line; what holds no letter or digit (rules, rows of stars) is dropped."""
    text = _ASIDE.sub("", text.translate(_PLAIN))
    joined = (" ".join(paragraph.split()) for paragraph in re.split(paragraph_break, text))
    return "\n".join(line for line in joined if any(c.isalnum() for c in line))


def split_documents(
    documents: Sequence[Document], validation: int, seed: int
) -> tuple[list[Document], list[Document]]:
    """(train, validation): `validation` works drawn by the seed alone are held out whole.

    Raises UsageError when nothing would be left to train on.
    """
    works = sorted({document.work for document in documents})
    if len(works) <= validation:
        raise UsageError(f"{validation} works are to be held out, but there are {len(works)}")
    held_out = set(random.Random(seed).sample(works, validation))
    train = [document for document in documents if document.work not in held_out]
    return train, [document for document in documents if document.work in held_out]


def encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[list[int]]:
    """BOS, the text, and EOS unless the document was cut off."""
    encodings = tokenizer.encode_batch_fast([document.text for document in documents])
    return [
        encoding.ids + [EOS_ID] * document.complete
        for encoding, document in zip(encodings, documents, strict=True)
    ]


def pack(sequences: Iterable[Sequence[int]], block_size: int) -> np.ndarray:
    """Sequences end to end, cut into [blocks, block_size] int32; PAD fills up the last block.

    A sequence that crosses a block boundary goes on in the next block: no token is added there,
    none is lost.
    """
    stream = [token for sequence in sequences for token in sequence]
    padding = -len(stream) % block_size
    return np.array(stream + [PAD_ID] * padding, dtype=np.int32).reshape(-1, block_size)


def training_blocks(
    sequences_by_source: Sequence[tuple[Sequence[Sequence[int]], int]], block_size: int, seed: int
) -> np.ndarray:
    """One epoch: every (sequences, repeat) source, its sequences repeated, all shuffled, packed."""
    sequences = [
        sequence
        for source, repeat in sequences_by_source
        for sequence in source
        for _ in range(repeat)
    ]
    random.Random(seed).shuffle(sequences)
    return pack(sequences, block_size)
