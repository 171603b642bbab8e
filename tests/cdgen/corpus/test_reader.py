"""Reading rows: only those of intact files that the manifest lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_corpus import begin, fill, make_rows

from cdgen.corpus.finalize import finalize
from cdgen.corpus.ranges import commit_range
from cdgen.corpus.reader import corpus_rows, row_of, rows_so_far
from cdgen.errors import StorageError, UsageError
from cdgen.storage import read_record, write_record


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


def test_one_row_is_read_from_its_file_alone(out: Path, format: str) -> None:
    folder = begin(out, format=format)
    commit_range(folder, 3, make_rows(folder.plan, 3))
    assert row_of(out, 25, ["prompt_id"]) == {"sequence_id": 25, "prompt_id": 6}
    with pytest.raises(UsageError, match="the range of sequence 3 is not committed yet"):
        row_of(out, 3, ["text"])
    fill(folder)
    finalize(out)
    first, second, third = sorted((out / "data").iterdir())
    first.unlink()
    third.write_bytes(second.read_bytes())
    assert row_of(out, 25, ["prompt_id"])["prompt_id"] == 6
    for sequence_id in (0, 39):
        with pytest.raises(StorageError, match="Restore the file"):
            row_of(out, sequence_id, ["text"])
    for sequence_id in (-1, 40):
        with pytest.raises(UsageError, match=f"has the sequences 0 to 39, got {sequence_id}"):
            row_of(out, sequence_id, ["text"])


def test_a_manifest_may_lack_the_file_of_a_row(out: Path) -> None:
    fill(begin(out))
    finalize(out)
    record = read_record(out / "manifest.json")
    write_record(out / "manifest.json", {**record, "files": record["files"][:1]})
    with pytest.raises(StorageError, match="its files lack sequence 20; try cdgen verify"):
        row_of(out, 20, ["text"])
