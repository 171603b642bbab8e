"""Reading the rows of a corpus, file by file, each checked against its hash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import FileEntry, damage, read_manifest
from cdgen.corpus.ranges import read_range
from cdgen.corpus.row_files import read_rows
from cdgen.corpus.rows import columns_of
from cdgen.errors import StorageError, UsageError


def corpus_rows(out: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a finalized corpus, cut to `columns`, in the order of `sequence_id`.

    The manifest alone decides which files belong to it. Raises StorageError, with the file's name,
    if a file does not have the size and sha256 of the manifest: before its first row, and after the
    rows of the files before it.
    """
    folder = CorpusFolder(out)
    return _rows(folder, read_manifest(folder).files, columns)


def rows_so_far(out: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows like `corpus_rows`; for an unfinished corpus, those of its committed ranges.

    Raises UsageError as well if no range is committed yet.
    """
    folder = CorpusFolder(out)
    if folder.is_finalized:
        return corpus_rows(out, columns)
    ranges = (read_range(folder, index) for index in range(folder.plan.num_ranges))
    entries = [entry for entry in ranges if entry]
    if not entries:
        raise UsageError(f"{out}: no range is committed yet; resume it with `cdgen generate`")
    return _rows(folder, entries, columns)


def row_of(out: Path, sequence_id: int, columns: Sequence[str]) -> dict[str, Any]:
    """Return one row, cut to `columns`, and read only the file that holds it.

    Raises UsageError if the plan has no such sequence or its range is not committed yet,
    StorageError for a damaged file.
    """
    folder = CorpusFolder(out)
    plan = folder.plan
    if not 0 <= sequence_id < plan.num_sequences:
        raise UsageError(
            f"{out} has the sequences 0 to {plan.num_sequences - 1:,}, got {sequence_id:,}"
        )
    index = sequence_id // plan.range_size
    entry: FileEntry | None
    if folder.is_finalized:
        number = index // plan.ranges_per_file
        entry = next(islice(read_manifest(folder).files, number, None), None)
    elif (entry := read_range(folder, index)) is None:
        raise UsageError(f"{out}: the range of sequence {sequence_id:,} is not committed yet")
    for row in _rows(folder, [entry] if entry else [], ["sequence_id", *columns]):
        if row["sequence_id"] == sequence_id:
            return row
    raise StorageError(f"{out}: its files lack sequence {sequence_id:,}; try cdgen verify")


def evenly_spaced(count: int, most: int) -> set[int]:
    """Return up to `most` of the numbers below `count`, from the first to the last: the first rows
    of a corpus continue only few prompts."""
    return set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist())


def _rows(
    folder: CorpusFolder, entries: Iterable[FileEntry], columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    known = columns_of(folder.plan)
    if unknown := set(columns) - set(known):
        raise UsageError(f"{folder}: no column {sorted(unknown)}, only {list(known)}")
    return (row for entry in entries for row in _checked_rows(folder, entry, columns))


def _checked_rows(
    folder: CorpusFolder, entry: FileEntry, columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    if problem := damage(folder, entry):
        raise StorageError(f"{folder}: {problem}. Restore the file, or generate the corpus again.")
    yield from read_rows(folder.out / entry.path, columns)
