"""The corpus on disk: its rows, the files that hold them, the commit of a range, and progress.

OUT/.cdgen/plan.json                       what decides the bytes
OUT/.cdgen/prompts/                        the prompt table
OUT/.cdgen/ranges/range-0000007.parquet    or .jsonl; committed once range-0000007.json is there too
OUT/.cdgen/heartbeats/, OUT/.cdgen/locks/  the workers of this moment
OUT/data/, README.md, manifest.json        made by `cdgen.corpus.finalize`; the manifest comes last
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cdgen.corpus.files import columns_of, write_rows
from cdgen.corpus.folder import STATE, is_finalized
from cdgen.corpus.plan import FrozenModel, Plan, parse_plan
from cdgen.corpus.rows import FINISH_REASONS, Counts, Row, count_rows
from cdgen.corpus.shard import Shard
from cdgen.errors import StorageError
from cdgen.storage import (
    read_record,
    require_space,
    sha256_of,
    write_atomic,
    write_record,
)

if TYPE_CHECKING:
    pass

# In JSON Lines: up to 7 characters for the id and its comma, about 5 of text. Parquet is smaller.
_BYTES_PER_TOKEN = 12


class FileEntry(Counts):
    """A file of rows and its content."""

    path: str  # relative to OUT
    bytes: int
    sha256: str

    @property
    def counts(self) -> Counts:
        return Counts.model_validate(self.model_dump(include=set(Counts.model_fields)))


class RangeEntry(FileEntry):
    """The commit of one range."""

    plan_sha256: str


class Manifest(FrozenModel):
    """OUT/manifest.json: a pure function of the plan and the rows, without times or host names."""

    plan: Plan
    plan_sha256: str
    files: tuple[FileEntry, ...]
    totals: Counts


# ---- ranges ------------------------------------------------------------------------------------


def range_path(out: Path, plan: Plan, index: int) -> Path:
    return out / STATE / "ranges" / f"range-{index:07}.{plan.format}"


def commit_range(out: Path, plan: Plan, index: int, rows: Iterable[Row]) -> RangeEntry:
    """Make `rows`, in any order, the committed content of range `index`.

    Raises ValueError if they are not exactly the rows that the plan puts there, StorageError if
    they cannot be written; earlier commits are untouched either way.
    """
    ordered = sorted(rows, key=lambda row: row.sequence_id)
    _require_planned(ordered, plan, index)
    names = columns_of(plan)
    records = [{name: getattr(row, name) for name in names} for row in ordered]
    path = range_path(out, plan, index)
    written = write_atomic(path, lambda file: write_rows(file, plan, records))
    entry = RangeEntry(
        path=str(path.relative_to(out)),
        bytes=written.bytes,
        sha256=written.sha256,
        plan_sha256=plan.sha256,
        **count_rows(records).model_dump(),
    )
    write_record(path.with_suffix(".json"), entry.model_dump(mode="json"))
    return entry


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


def read_range(out: Path, plan: Plan, index: int) -> RangeEntry | None:
    """The entry of range `index`, None while it is not committed.

    Committed: the entry is there and intact, and its file has the size that the entry says.
    """
    path = range_path(out, plan, index)
    try:
        entry = RangeEntry.model_validate(read_record(path.with_suffix(".json")))
        size = path.stat().st_size
    except (StorageError, ValidationError, FileNotFoundError):
        return None
    return entry if entry.bytes == size else None


def foreign(entry: RangeEntry, plan: Plan) -> str | None:
    """Somebody may have copied a range here from another corpus."""
    return None if entry.plan_sha256 == plan.sha256 else f"{entry.path}: made for another plan"


def damage(out: Path, entry: FileEntry) -> str | None:
    """Why the bytes of a file are not those of its entry."""
    path = out / entry.path
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return f"{entry.path}: {size} bytes, expected {entry.bytes}"
        digest = sha256_of(path)
    except OSError as error:
        return f"{entry.path}: {error.strerror}"
    if digest != entry.sha256:
        return f"{entry.path}: damaged, sha256 {digest[:12]}..., expected {entry.sha256[:12]}..."
    return None


def pending_ranges(out: Path, plan: Plan, shard: Shard) -> list[int]:
    """The ranges that `shard` still has to make, in order."""
    if is_finalized(out):
        return []
    return [index for index in shard.ranges(plan) if read_range(out, plan, index) is None]


def check_space(out: Path, plan: Plan) -> None:
    """Raises StorageError unless one more range fits on the disk, by a generous estimate."""
    tokens = plan.range_size * (plan.prompts.prompt_tokens + plan.max_new_tokens)
    require_space(out, tokens * _BYTES_PER_TOKEN)


def read_manifest(out: Path) -> Manifest:
    """Raises StorageError if it is damaged, PlanMismatch if it has another format."""
    path = out / "manifest.json"
    record = read_record(path)
    try:
        return Manifest.model_validate({**record, "plan": parse_plan(record["plan"], str(path))})
    except (ValidationError, KeyError) as error:
        raise StorageError(f"{path} is not a manifest of this cdgen: {error}.") from error
