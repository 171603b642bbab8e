"""Ranges: committing the rows of one, reading its entry back, and finding those that are
missing."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import RangeEntry
from cdgen.corpus.plan import Plan
from cdgen.corpus.row_files import write_rows
from cdgen.corpus.rows import Counts, Row, columns_of, count_rows
from cdgen.corpus.shard import Shard
from cdgen.errors import StorageError
from cdgen.finish_reason import FINISH_REASONS
from cdgen.storage import read_record, write_atomic, write_record


@dataclass(frozen=True)
class EncodedRange:
    """The rows of a range as the bytes of its file, made on any machine."""

    data: bytes
    sha256: str
    counts: Counts
    plan_sha256: str


def encode_range(plan: Plan, index: int, rows: Iterable[Row]) -> EncodedRange:
    """Return the file of range `index`, made of `rows` in any order.

    Raises ValueError if they are not exactly the rows that the plan puts there.
    """
    ordered = sorted(rows, key=lambda row: row.sequence_id)
    _require_planned(ordered, plan, index)
    names = columns_of(plan)
    records = [{name: getattr(row, name) for name in names} for row in ordered]
    file = io.BytesIO()
    write_rows(file, plan, records)
    data = file.getvalue()
    return EncodedRange(data, hashlib.sha256(data).hexdigest(), count_rows(records), plan.sha256)


def commit_encoded(folder: CorpusFolder, index: int, encoded: EncodedRange) -> RangeEntry:
    """Make `encoded` the committed content of range `index`.

    Raises StorageError if it is damaged or of another plan, or cannot be written. Earlier commits
    are untouched in either case.
    """
    if encoded.plan_sha256 != folder.plan.sha256:
        raise StorageError(f"range {index} was made for another plan than that of {folder}")
    path = folder.range_path(index)
    written = write_atomic(path, encoded.data)
    if written.sha256 != encoded.sha256:
        raise StorageError(f"range {index} was damaged on its way to {folder}: run again")
    entry = RangeEntry(
        path=str(path.relative_to(folder.out)),
        bytes=written.bytes,
        sha256=written.sha256,
        plan_sha256=encoded.plan_sha256,
        **encoded.counts.model_dump(),
    )
    write_record(folder.range_entry_path(index), entry.model_dump(mode="json"))
    return entry


def commit_range(folder: CorpusFolder, index: int, rows: Iterable[Row]) -> RangeEntry:
    """Make `rows`, in any order, the committed content of range `index`.

    Raises ValueError if they are not exactly the rows that the plan puts there, StorageError if
    they cannot be written. Earlier commits are untouched in either case.
    """
    return commit_encoded(folder, index, encode_range(folder.plan, index, rows))


def _require_planned(rows: Sequence[Row], plan: Plan, index: int) -> None:
    expected = plan.sequence_ids(index)
    if [row.sequence_id for row in rows] != list(expected):
        raise ValueError(
            f"range {index}: expected each of the sequences {expected.start} to "
            f"{expected.stop - 1} once, got {len(rows)} rows with other ids"
        )
    for row in rows:
        consistent = (
            row.prompt_id == plan.prompt_id(row.sequence_id)
            and len(row.tokens) == row.prompt_tokens + row.new_tokens
            and row.finish_reason in FINISH_REASONS
            and (row.good_logprob is not None) == (plan.logprobs and row.new_tokens > 0)
        )
        if not consistent:
            raise ValueError(f"sequence {row.sequence_id} contradicts itself or the plan: {row}")


def read_range(folder: CorpusFolder, index: int) -> RangeEntry | None:
    """Return the entry of range `index`, or None until it is committed.

    A range is committed if its entry is there and intact, and its file, which no other entry may
    name, has the entry's size.
    """
    path = folder.range_path(index)
    try:
        entry = RangeEntry.model_validate(read_record(folder.range_entry_path(index)))
        size = path.stat().st_size
    except (StorageError, ValidationError, FileNotFoundError):
        return None
    return entry if entry.bytes == size and folder.out / entry.path == path else None


def pending_ranges(folder: CorpusFolder, shard: Shard) -> list[int]:
    """Return the ranges that `shard` still has to make, in order."""
    if folder.is_finalized:
        return []
    indices = shard.ranges(folder.plan.num_ranges)
    return [index for index in indices if read_range(folder, index) is None]
