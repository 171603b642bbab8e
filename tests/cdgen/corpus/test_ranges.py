"""Ranges: what a commit stores, what it refuses, and which ranges are still missing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from small_corpus import WHOLE, begin, fill, make_rows

from cdgen.corpus.ranges import (
    commit_encoded,
    commit_range,
    encode_range,
    pending_ranges,
    read_range,
)
from cdgen.corpus.shard import Shard
from cdgen.corpus.verify import verify
from cdgen.errors import StorageError


def test_a_committed_range_has_the_contracts_columns_and_counts(out: Path) -> None:
    folder = begin(out)
    rows = make_rows(folder.plan, 1)
    entry = commit_range(folder, 1, reversed(rows))
    table = pq.read_table(folder.range_path(1))
    assert {field.name: str(field.type) for field in table.schema} == {
        "sequence_id": "int64",
        "prompt_id": "int64",
        "text": "string",
        "tokens": "list<element: int32>",
        "prompt_tokens": "int32",
        "new_tokens": "int32",
        "finish_reason": "string",
        "mean_plausible": "float",
    }
    assert table["sequence_id"].to_pylist() == list(range(8, 16))
    for row, stored in zip(rows, table.to_pylist(), strict=True):
        assert all(getattr(row, name) == value for name, value in stored.items())
    assert entry == read_range(folder, 1)
    assert entry.rows == 8
    assert entry.tokens == sum(len(row.tokens) for row in rows)
    assert entry.new_tokens == sum(row.new_tokens for row in rows)
    assert entry.words == sum(len(row.text.split()) for row in rows)
    assert entry.text_bytes == sum(len(row.text.encode()) for row in rows)
    assert entry.finish_reasons == {"eos": 2, "length": 4, "quarantined": 2}
    data = folder.range_path(1).read_bytes()
    assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_logprobs_add_a_column(out: Path) -> None:
    folder = begin(out, logprobs=True)
    commit_range(folder, 0, make_rows(folder.plan, 0))
    column = pq.read_table(folder.range_path(0))["good_logprob"]
    assert str(column.type) == "float"
    assert column.to_pylist() == [None, -0.25, -0.5, -0.75, -1.0, -1.25, -1.5, None]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[:-1],
        lambda rows: [*rows, rows[-1]],
        lambda rows: [*rows[:-1], replace(rows[-1], sequence_id=8, prompt_id=2)],
        lambda rows: [replace(rows[0], prompt_id=1), *rows[1:]],
        lambda rows: [replace(rows[0], new_tokens=rows[0].new_tokens + 1), *rows[1:]],
        lambda rows: [replace(rows[0], finish_reason="bored"), *rows[1:]],
        lambda rows: [*rows[:-1], replace(rows[-1], good_logprob=-1.0)],
    ],
)
def test_rows_that_the_plan_does_not_put_there_are_refused(out: Path, change: Any) -> None:
    folder = begin(out)
    with pytest.raises(ValueError, match=r"range 0|sequence 0|sequence 7"):
        commit_range(folder, 0, change(make_rows(folder.plan, 0)))
    assert list(folder.range_path(0).parent.iterdir()) == []


def test_what_another_machine_made_is_checked_before_it_counts(out: Path) -> None:
    folder = begin(out)
    encoded = encode_range(folder.plan, 2, make_rows(folder.plan, 2))
    flipped = bytes([encoded.data[0] ^ 1]) + encoded.data[1:]
    with pytest.raises(StorageError, match="range 2 was damaged on its way"):
        commit_encoded(folder, 2, replace(encoded, data=flipped))
    with pytest.raises(StorageError, match="range 2 was made for another plan"):
        commit_encoded(folder, 2, replace(encoded, plan_sha256="0" * 64))
    assert 2 in pending_ranges(folder, WHOLE)
    entry = commit_encoded(folder, 2, encoded)
    assert entry == read_range(folder, 2) and 2 not in pending_ranges(folder, WHOLE)


def test_pending_ranges_shrink_by_commits_and_by_shard(out: Path) -> None:
    folder = begin(out)
    assert folder.plan.num_ranges == 5
    assert pending_ranges(folder, Shard(1, 2)) == [1, 3]
    commit_range(folder, 3, make_rows(folder.plan, 3))
    assert pending_ranges(folder, WHOLE) == [0, 1, 2, 4]
    assert pending_ranges(folder, Shard(1, 2)) == [1]
    assert pending_ranges(folder, Shard(7, 9)) == []


def test_a_range_is_committed_only_with_an_intact_entry_and_the_whole_file(
    out: Path, format: str
) -> None:
    folder = begin(out, format=format)
    fill(folder)
    folder.range_entry_path(0).unlink()
    folder.range_path(1).unlink()
    folder.range_path(2).write_bytes(folder.range_path(2).read_bytes()[:-1])
    entry = folder.range_entry_path(3)
    entry.write_bytes(entry.read_bytes().replace(b'"rows": 8', b'"rows": 9'))
    assert pending_ranges(folder, WHOLE) == [0, 1, 2, 3]
    fill(folder)
    assert verify(out) == []
