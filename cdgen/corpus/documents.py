"""Documents, from wherever they come: files of text, JSON or Parquet, folders of them, saved and
named datasets. Prompts, training sources, evaluation data and `cdgen measure` are all read here.

A row of a JSON or Parquet file or of a dataset is a document, and so is a line of a text file. But
if a text file has lines that are an end-of-text mark and nothing else, its documents are what
stands between them.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING

from cdgen.corpus import text_files
from cdgen.corpus.saved_datasets import is_saved, may_be_dataset, named_dataset, saved_dataset
from cdgen.corpus.source_files import files_in, shortened
from cdgen.corpus.text_files import EXPECTED, kind_of, numbered_lines, reading
from cdgen.corpus.text_rows import TextRow, dataset_rows, file_rows
from cdgen.errors import UsageError
from cdgen.storage import sha256_of

if TYPE_CHECKING:
    from datasets import Dataset

# Marks that raw text files of the field have between documents: GPT-2's and NeoX's, Llama's, Llama
# 3's, Gemma's.
DOCUMENT_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")


@dataclass(frozen=True)
class Part:
    """A file, or a dataset, of a source."""

    name: str  # within the source
    content: Path | Dataset

    @property
    def is_text(self) -> bool:
        return isinstance(self.content, Path) and kind_of(self.content.name) == "text"

    def rows(self, column: str, others: Sequence[str] = ()) -> Iterator[TextRow]:
        """Yield the lines or rows; see `text_rows`."""
        if isinstance(self.content, Path):
            return file_rows(self.content, column, others)
        return dataset_rows(self.content, self.name, column, others)

    def end_marks(self) -> Counter[str]:
        """Count the lines of a text file that are an end-of-text mark."""
        if not isinstance(self.content, Path) or not self.is_text:
            return Counter()
        lines = (line.strip() for _, line in numbered_lines(self.content))
        return Counter(line for line in lines if line in DOCUMENT_ENDS)


@dataclass
class DocumentSource:
    """The parts of a source; once its documents are read, also what is to be said about them."""

    label: str  # for messages
    parts: tuple[Part, ...]
    column: str = "text"
    notes: list[str] = field(default_factory=list)  # what a user may not expect
    is_folder: bool = False
    marked: dict[str, Counter[str]] = field(default_factory=dict)  # end marks by name of the file
    left_out: Counter[str] = field(default_factory=Counter)  # documents without text, by kind
    copy: IO[bytes] | None = None  # the file that is read in place of a pipe

    def documents(self, others: Sequence[str] = ()) -> Iterator[tuple[Part, TextRow]]:
        """Yield every document with visible text and the part that it is in. Raises UsageError with
        file and line."""
        self.left_out.clear()
        for part in self.parts:
            for row in self._rows(part, others):
                if kind := _no_text(row.text):
                    self.left_out[kind] += 1
                else:
                    yield part, row

    def _rows(self, part: Part, others: Sequence[str]) -> Iterator[TextRow]:
        rows = part.rows(self.column, others)
        if not (marks := part.end_marks()):
            return rows
        self.marked[part.name] = marks
        return _between_marks(rows, f"{self.label}, {part.name}")

    def texts(self) -> Iterator[str]:
        """Yield the text of every document."""
        return (row.text for _, row in self.documents())

    def say(self, count: str, *more: str) -> None:
        """Print to stderr, after the count of documents, what a user may not expect, if
        anything."""
        if notes := [*self.notes, *self._divisions(), *self._omissions(), *more]:
            unmarked = (part for part in self.parts if part.name not in self.marked)
            units = sorted({"line" if part.is_text else "row" for part in unmarked})
            said = [count, *notes, *(f"each {unit} is a document" for unit in units)]
            print(f"{self.label}: {'; '.join(said)}", file=sys.stderr, flush=True)

    def _divisions(self) -> list[str]:
        marks = sum(self.marked.values(), Counter[str]())
        shown = ", ".join(f"{count:,} lines {mark}" for mark, count in marks.items())
        return [f"{shown} separate the documents of {shortened([*self.marked])}"] if shown else []

    def _omissions(self) -> list[str]:
        return [f"{kind} left out: {count:,}" for kind, count in self.left_out.items()]

    def sha256(self) -> str:
        """Return the sha256 of a file, of the hashes of a folder's files, or of a dataset's
        texts."""
        paths = [part.content for part in self.parts if isinstance(part.content, Path)]
        try:
            if paths and not self.is_folder:
                return sha256_of(paths[0])
            hashes = (sha256_of(path).encode() for path in paths)
            return _hash_of_parts(hashes if paths else (t.encode() for t in self._dataset_texts()))
        except OSError as error:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}.") from error

    def _dataset_texts(self) -> Iterator[str]:
        return (row.text for part in self.parts for row in part.rows(self.column))


def open_source(name: str, column: str = "text", label: str | None = None) -> DocumentSource:
    """Return the source that `name` means: a file, a folder, or else a `datasets` name.

    `label` stands for it in messages. Raises UsageError if there is nothing of that name to read.
    """
    path, label = Path(name), name if label is None else label
    make = partial(DocumentSource, label, column=column)
    if not name:  # an unset shell variable; Path("") would be the current folder
        raise UsageError(f"{label}: got an empty name; {EXPECTED}, a folder, or a `datasets` name.")
    if not path.exists():
        if not may_be_dataset(name):
            raise UsageError(f"{label}: no such file or folder.")
        return make((Part(name, named_dataset(name)),))
    if path.is_dir():
        return _open_folder(path, column, label)
    if kind_of(path.name) is None:
        raise UsageError(f"{label}: unknown kind of file; {EXPECTED}.")
    if path.is_file():
        return make((Part(path.name, path),))
    copy = _copy_of_pipe(path)
    return make((Part(path.name, Path(copy.name)),), copy=copy)


def _copy_of_pipe(path: Path) -> IO[bytes]:
    """Return a temporary copy of what a pipe delivers, for documents are read more than once."""
    copy = NamedTemporaryFile(suffix=f"-{path.name}")  # noqa: SIM115 - lives as long as its source
    with reading(path), path.open("rb") as pipe:
        shutil.copyfileobj(pipe, copy)
        copy.flush()
    return copy


def _open_folder(folder: Path, column: str, label: str) -> DocumentSource:
    if is_saved(folder):
        name, dataset, notes = saved_dataset(folder, label)
        return DocumentSource(label, (Part(name, dataset),), column, notes)
    files, about = (_corpus_files(folder), []) if _is_corpus(folder) else files_in(folder, label)
    parts = tuple(Part(str(path.relative_to(folder)), path) for path in files)
    read = f"{len(parts):,} files; not read, as documentation: {shortened(about)}"
    return DocumentSource(label, parts, column, [read] if about else [], is_folder=True)


def _is_corpus(folder: Path) -> bool:
    """Return whether the folder is a finished corpus of cdgen; others may hold a manifest too."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and b'"plan_sha256"' in manifest.read_bytes()


def _corpus_files(folder: Path) -> list[Path]:
    from cdgen.corpus.folder import CorpusFolder  # these two need pydantic
    from cdgen.corpus.manifest import read_manifest

    return [folder / entry.path for entry in read_manifest(CorpusFolder(folder)).files]


def _between_marks(lines: Iterable[TextRow], label: str) -> Iterator[TextRow]:
    """Yield the texts between lines that are an end-of-text mark, numbered by their first line."""
    held: list[str] = []
    first = size = 0
    for text, number, _ in lines:
        if text.strip() in DOCUMENT_ENDS:
            yield TextRow("\n".join(held).strip(), first or number)
            held, first, size = [], 0, 0
            continue
        held.append(text)
        first = first or (number if text.strip() else 0)
        size += len(text)
        if size > text_files.MAX_LINE_BYTES:
            raise UsageError(
                f"{label}, line {number}: a document longer than {size >> 20} MB; divide it."
            )
    if first:
        yield TextRow("\n".join(held).strip(), first)


def _no_text(text: str) -> str | None:
    """Return what a document without text is, or None if it has text."""
    visible = text.strip()
    if visible in DOCUMENT_ENDS:
        return "lone end-of-text marks"
    return None if visible else "blank texts"


def _hash_of_parts(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:%s" % (len(part), part))
    return digest.hexdigest()
