"""The rows of a corpus for whoever reads one: checked against its hashes, file by file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cdgen.corpus.files import columns_of, read_rows
from cdgen.corpus.folder import is_finalized, read_plan
from cdgen.corpus.plan import Plan
from cdgen.corpus.ranges import FileEntry, damage, read_manifest, read_range
from cdgen.errors import StorageError, UsageError


def corpus_rows(out: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a finalized corpus, cut to `columns`, in order of `sequence_id`.

    The manifest alone says which files there are. Raises StorageError, naming the file, if one has
    not the size and sha256 of the manifest: before its first row, after the rows of those before.
    """
    manifest = read_manifest(out)
    return _rows(out, manifest.plan, manifest.files, columns)


def rows_so_far(out: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """`corpus_rows`; of an unfinished corpus the rows of its committed ranges, likewise checked.

    Raises UsageError, too, if no range is committed yet.
    """
    if is_finalized(out):
        return corpus_rows(out, columns)
    plan = read_plan(out)
    ranges = (read_range(out, plan, index) for index in range(plan.num_ranges))
    entries = [entry for entry in ranges if entry]
    if not entries:
        raise UsageError(f"{out}: no range is committed yet; go on with `cdgen generate`")
    return _rows(out, plan, entries, columns)


def _rows(
    out: Path, plan: Plan, entries: Iterable[FileEntry], columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    if unknown := set(columns) - set(columns_of(plan)):
        raise UsageError(f"{out}: no column {sorted(unknown)}, only {list(columns_of(plan))}")
    return (row for entry in entries for row in _checked_rows(out, entry, columns))


def _checked_rows(out: Path, entry: FileEntry, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    if problem := damage(out, entry):
        raise StorageError(f"{out}: {problem}. Restore the file, or generate the corpus again.")
    yield from read_rows(out / entry.path, columns)
