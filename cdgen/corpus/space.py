"""The room that a corpus takes on the disk, estimated before it is written."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.plan import Format, Plan
from cdgen.storage import require_space

# Measured: a token's id and its text take 2.6 to 2.8 bytes in Parquet and 9 in JSON Lines, with a
# vocabulary of 4,096; longer ids add a byte or two (docs/decisions.md).
_TOKEN_BYTES: dict[Format, int] = {"parquet": 5, "jsonl": 12}
_ROW_BYTES: dict[Format, int] = {"parquet": 40, "jsonl": 200}  # all other columns
_IS_ENTRY = re.compile(r"range-[0-9]+\.json")
_SAMPLED = 16  # committed ranges whose sizes tell those of the others


def corpus_bytes(rows: int, row_tokens: int, format: Format = "parquet") -> int:
    """Return about how many bytes the files of a corpus take, if every row has so many tokens."""
    return rows * (_ROW_BYTES[format] + row_tokens * _TOKEN_BYTES[format])


def require_range_space(folder: CorpusFolder) -> None:
    """Raise StorageError unless one more range fits on the disk."""
    require_space(folder.out, _bytes_of_rows(folder.plan, folder.plan.range_size), "the next range")


def require_plan_space(folder: CorpusFolder, plan: Plan) -> None:
    """Raise StorageError unless all that is left to write of the corpus fits on the disk.

    That is every range that is not committed, of other shards too, and then the merged files, for
    which the ranges make room only once they are complete. Sequences count as long as they may be,
    or, if there are committed ranges, as those are. One listing of a folder and a few files are
    read, however large the corpus is.
    """
    done = _committed(folder, plan.format)
    left = max(0, plan.num_sequences - done.ranges * plan.range_size)
    whole = _bytes_of_rows(plan, plan.num_sequences)
    if done.ranges:
        # A quarter more, because ranges differ.
        whole = 5 * done.range_bytes * plan.num_ranges // 4
    ranges = whole * left // plan.num_sequences
    purpose = f"the {left:,} sequences that are left and then for the merged files"
    require_space(folder.out, ranges + whole, purpose)


class _Committed(NamedTuple):
    ranges: int
    range_bytes: int  # of one, on average


def _committed(folder: CorpusFolder, format: Format) -> _Committed:
    """Count the entries of ranges, and read the sizes of a few."""
    if not folder.ranges.is_dir():
        return _Committed(0, 0)
    with os.scandir(folder.ranges) as entries:
        names = [entry.name for entry in entries if _IS_ENTRY.fullmatch(entry.name)]
    sizes = []
    for name in islice(names, _SAMPLED):
        with suppress(FileNotFoundError):
            path = folder.ranges / name.replace(".json", f".{format}")
            sizes.append(path.stat().st_size)
    return _Committed(len(names), sum(sizes) // max(1, len(sizes)))


def _bytes_of_rows(plan: Plan, rows: int) -> int:
    return corpus_bytes(rows, plan.prompts.prompt_tokens + plan.max_new_tokens, plan.format)
