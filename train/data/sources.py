"""Reading the documents of a source: text, JSON and Parquet files, datasets, finalized corpora."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cdgen.corpus.documents import DocumentSource, Part, open_source
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.reader import corpus_rows
from cdgen.corpus.saved_datasets import may_be_dataset
from cdgen.corpus.text_rows import TextRow
from cdgen.errors import UsageError
from cdgen.storage import sha256_of
from cdgen.train.config import Source
from cdgen.train.data.documents import Document, clean_text, split_lines

_BOOK_FIELDS = ("author", "title")


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
    for text in _texts(source, data_dir):
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
    if is_synthetic(source, data_dir):
        return sha256_of(data_dir / source.path / "manifest.json")
    return _open(source, data_dir).sha256()


def corpus_texts(out: Path) -> Iterator[tuple[str, bool]]:
    """Yield the text of every row of a finalized corpus, and whether it ended at an end-of-text.

    Quarantined rows are skipped: they stopped where sampling failed. Raises StorageError if a file
    has changed since it was finalized.
    """
    for row in corpus_rows(out, ["text", "finish_reason"]):
        if row["finish_reason"] != "quarantined":
            yield row["text"], row["finish_reason"] == "eos"


def is_synthetic(source: Source, data_dir: Path) -> bool:
    """Return whether a source is a corpus of `cdgen generate`."""
    place = data_dir / source.path
    return place.is_dir() and CorpusFolder(place).is_finalized


def _open(source: Source, data_dir: Path) -> DocumentSource:
    """Open a file or folder below the data folder, or else the dataset of that name."""
    place, name = data_dir / source.path, str(source.path)
    if place.exists():
        return open_source(str(place), source.text_column, f"source {source.name}: {place}")
    if Path(name).exists():  # `datasets` could read it
        raise UsageError(
            f"source {source.name}: {name} lies in the current folder, but not in --data"
            f" {data_dir}; move it, or give another --data"
        )
    if may_be_dataset(name):
        return open_source(name, source.text_column, f"source {source.name}: {name}")
    raise UsageError(f"source {source.name}: cannot read {place}: no such file; is --data right?")


def _texts(source: Source, data_dir: Path) -> Iterator[_Text]:
    if is_synthetic(source, data_dir):
        texts = corpus_texts(data_dir / source.path)
        yield from (_Text(text.split("\n"), ended) for text, ended in texts)
        return
    opened = _open(source, data_dir)
    if opened.notes:
        print(f"{opened.label}: {'; '.join(opened.notes)}")
    if source.split == "chapters":
        yield from _books(source, opened)
        return
    for part in opened.parts:
        yield from _part(part, source)


def _part(part: Part, source: Source) -> Iterator[_Text]:
    rows = part.rows(source.text_column)
    if not part.is_text:
        yield from (_Text(row.text.split("\n"), True) for row in rows)
    elif source.split == "rows":
        yield from (_Text([row.text], True) for row in rows)
    else:  # the last document may be cut off: samples end anywhere
        yield _Text((row.text for row in rows), False)


def _books(source: Source, opened: DocumentSource) -> Iterator[_Text]:
    seen = set()
    for part in opened.parts:
        place = f"source {source.name}: {part.name}"
        if part.is_text:
            raise UsageError(f"{place}: `chapters` reads rows with author, title and text")
        for row in part.rows(source.text_column, _BOOK_FIELDS):
            author, title = (_field(row, name, place) for name in _BOOK_FIELDS)
            seen.add(title)
            if not source.titles or title in source.titles:
                yield _Text(row.text.split("\n"), True, f"{author}: {title}")
    if missing := set(source.titles) - seen:
        raise UsageError(
            f"source {source.name}: no book is called {sorted(missing)}; correct the titles"
        )


def _field(row: TextRow, name: str, place: str) -> str:
    value = row.others.get(name)
    if not isinstance(value, str):
        raise UsageError(
            f'{place}, row {row.number}: `chapters` needs a string under "{name}", got {value!r}'
        )
    return value
