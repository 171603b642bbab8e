"""Reading the documents of a source: text, JSONL and Parquet files, datasets, finalized corpora."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.corpus.documents import (
    SUFFIXES,
    file_texts,
    hash_source,
    hub_texts,
    json_row,
    may_be_dataset,
    numbered_lines,
    usable_files,
)
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.reader import corpus_rows
from cdgen.errors import UsageError
from cdgen.storage import sha256_of
from cdgen.train.config import Source
from cdgen.train.data.documents import Document, clean_text, split_lines

_EXPECTED = f"{', '.join(SUFFIXES)}, a folder of them, a finalized corpus or a `datasets` name"


@dataclass(frozen=True)
class _Text:
    """A text before it is split into documents: a file, a line or a row."""

    lines: Iterable[str]
    ended: bool  # its end is a document's end
    work: str = ""


def read_documents(source: Source, data_dir: Path) -> list[Document]:
    """Read a source. Raises UsageError if it is missing, damaged or empty, or lacks a title that it
    names."""
    documents = []
    for text in _texts(source, _find(source, data_dir)):
        for part, complete in split_lines(source.split, text.lines, text.ended, source.words):
            cleaned = clean_text(part, source.clean) if source.clean else part
            if cleaned:
                documents.append(Document(cleaned, text.work, complete))
    if not documents:
        raise UsageError(
            f"source {source.name}: {source.path} holds no document; correct its path or `split`"
        )
    return documents


def source_sha256(source: Source, data_dir: Path) -> str:
    """Return the hash of a source's files, or of a dataset's texts."""
    place = _find(source, data_dir)
    if isinstance(place, Path):
        return sha256_of(place / "manifest.json") if _is_corpus(place) else hash_source(str(place))
    digest = hashlib.sha256()
    for text in hub_texts(place):
        digest.update(b"%d:%s" % (len(text), text.encode()))
    return digest.hexdigest()


def corpus_texts(out: Path) -> Iterator[tuple[str, bool]]:
    """Yield the text of every row of a finalized corpus, and whether it ended at an end-of-text.

    Quarantined rows are skipped: they stopped where sampling failed. Raises StorageError if a file
    has changed since it was finalized.
    """
    for row in corpus_rows(out, ["text", "finish_reason"]):
        if row["finish_reason"] != "quarantined":
            yield row["text"], row["finish_reason"] == "eos"


def _find(source: Source, data_dir: Path) -> Path | str:
    """Return a file or folder below the data folder, or else the name of a dataset."""
    place, name = data_dir / source.path, str(source.path)
    if place.is_dir() and not _is_corpus(place) and not usable_files(place):
        raise UsageError(f"source {source.name}: {place} holds no file of {_EXPECTED}")
    if place.is_file() and not name.endswith(SUFFIXES):
        raise UsageError(f"source {source.name}: {place} is of an unknown kind, not {_EXPECTED}")
    if place.exists():
        return place
    if Path(name).exists():  # `datasets` could read it
        raise UsageError(
            f"source {source.name}: {name} lies in the current folder, but not in --data"
            f" {data_dir}; move it, or give another --data"
        )
    if may_be_dataset(name):
        return name
    raise UsageError(f"source {source.name}: cannot read {place}: no such file; is --data right?")


def is_synthetic(source: Source, data_dir: Path) -> bool:
    """Return whether a source is a corpus of `cdgen generate`."""
    return _is_corpus(data_dir / source.path)


def _is_corpus(place: Path) -> bool:
    return place.is_dir() and CorpusFolder(place).is_finalized


def _texts(source: Source, place: Path | str) -> Iterator[_Text]:
    if isinstance(place, str):
        if source.split == "chapters":
            raise UsageError(f"source {source.name}: `chapters` reads JSON lines, not `datasets`")
        yield from (_Text(text.split("\n"), True) for text in hub_texts(place))
    elif _is_corpus(place):
        yield from (_Text(text.split("\n"), ended) for text, ended in corpus_texts(place))
    elif source.split == "chapters":
        yield from _books(source, usable_files(place) if place.is_dir() else [place])
    else:
        for file in usable_files(place) if place.is_dir() else [place]:
            yield from _file(file, source.split)


def _file(path: Path, split: str) -> Iterator[_Text]:
    if not path.name.endswith((".txt", ".txt.gz", ".txt.xz")):
        yield from (_Text(text.split("\n"), True) for text in file_texts(path))
    elif split == "rows":
        yield from (_Text([line], True) for line in file_texts(path))
    else:  # the last document may be cut off: samples end anywhere
        yield _Text(file_texts(path), False)


def _books(source: Source, files: Iterable[Path]) -> Iterator[_Text]:
    seen = set()
    for path in files:
        if not path.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.xz")):
            raise UsageError(f"source {source.name}: `chapters` reads JSON lines, got {path}")
        for number, line in numbered_lines(path):
            if not line.strip():
                continue
            book = json_row(line, f"{path}, line {number}")
            author, title = (_field(book, name, path, number) for name in ("author", "title"))
            seen.add(title)
            if not source.titles or title in source.titles:
                yield _Text(book["text"].split("\n"), True, f"{author}: {title}")
    if missing := set(source.titles) - seen:
        raise UsageError(
            f"source {source.name}: no book is called {sorted(missing)}; correct the titles"
        )


def _field(book: dict[str, Any], name: str, path: Path, number: int) -> str:
    value = book.get(name)
    if not isinstance(value, str):
        raise UsageError(
            f'{path}, line {number}: `chapters` needs a string under "{name}", got {value!r}'
        )
    return value
