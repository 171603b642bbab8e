"""Reading rows: only those of intact files that the manifest lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_corpus import begin, fill, make_rows

from cdgen.corpus.finalize import finalize
from cdgen.corpus.ranges import commit_range
from cdgen.corpus.reader import corpus_rows, rows_so_far
from cdgen.errors import StorageError, UsageError


@pytest.mark.parametrize("harm", ["flipped", "short", "gone", "swapped"])
def test_rows_of_a_damaged_file_are_never_read(out: Path, format: str, harm: str) -> None:
    """The rows of the files before it are read."""
    fill(begin(out, format=format))
    finalize(out)
    first, second, _ = sorted((out / "data").iterdir())
    data = second.read_bytes()
    if harm == "gone":
        second.unlink()
    else:
        other = {"flipped": bytes([data[0] ^ 1]) + data[1:], "short": data[:-1]}
        second.write_bytes(other.get(harm, first.read_bytes()))
    rows = corpus_rows(out, ["sequence_id"])
    assert [next(rows)["sequence_id"] for _ in range(16)] == list(range(16))
    with pytest.raises(StorageError, match=f"{second.name}: .* Restore the file"):
        next(rows)


def test_the_manifest_alone_says_which_files_are_read(out: Path, format: str) -> None:
    fill(begin(out, format=format))
    finalize(out)
    first = min((out / "data").iterdir())
    (out / "data" / f"train-stray.{format}").write_bytes(first.read_bytes())
    rows = list(corpus_rows(out, ["text", "sequence_id"]))
    assert [row["sequence_id"] for row in rows] == list(range(40))
    assert all(set(row) == {"text", "sequence_id"} for row in rows)
    with pytest.raises(UsageError, match=r"no column \['good_logprob'\], only \['sequence_id'"):
        corpus_rows(out, ["good_logprob"])


def test_rows_of_what_is_no_finished_corpus(out: Path) -> None:
    folder = begin(out)
    with pytest.raises(StorageError, match=r"cannot read .*manifest\.json"):
        corpus_rows(out, ["text"])
    with pytest.raises(UsageError, match="no range is committed yet"):
        rows_so_far(out, ["text"])
    commit_range(folder, 3, make_rows(folder.plan, 3))
    assert [row["sequence_id"] for row in rows_so_far(out, ["sequence_id"])] == list(range(24, 32))
