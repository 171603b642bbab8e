"""Verification: every kind of damage is found, and the file is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_corpus import WHOLE, begin, fill, make_plan, make_row, make_rows

from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import RangeEntry
from cdgen.corpus.model_names import ModelName, ModelNames
from cdgen.corpus.ranges import commit_range
from cdgen.corpus.status import beat
from cdgen.corpus.verify import verify
from cdgen.errors import StorageError
from cdgen.storage import read_record, write_record


def committed_files(out: Path) -> Iterator[Path]:
    ignored = {".lock"}
    yield from sorted(p for p in out.rglob("*") if p.is_file() and p.suffix not in ignored)


@pytest.mark.parametrize("finished", [False, True])
def test_verify_names_the_file_of_every_flipped_byte(
    out: Path, format: str, finished: bool, small_groups: None
) -> None:
    folder = begin(out, ModelNames(good=ModelName(name="good")), format=format)
    fill(folder)
    beat(folder, WHOLE, 4, new_tokens=1, tokens_per_second=1.0)
    if finished:
        finalize(out)
    assert verify(out) == []
    files = list(committed_files(out))
    assert len(files) == 6 + (3 + 3 if finished else 2 * 5)
    for path in files:
        data = path.read_bytes()
        for position in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
            flipped = bytearray(data)
            flipped[position] ^= 0x04
            path.write_bytes(flipped)
            problems = verify(out)
            assert problems, f"byte {position} of {path.name}"
            assert any(path.name in problem for problem in problems), problems
        path.write_bytes(data)
    assert verify(out) == []


def test_verify_names_missing_surplus_and_short_files(
    out: Path, format: str, small_groups: None
) -> None:
    folder = begin(out, format=format)
    commit_range(folder, 2, make_rows(folder.plan, 2))
    assert verify(out) == [f"{out} is incomplete: 4 of 5 ranges are missing."]
    fill(folder)
    finalize(out)
    first, second, third = sorted((out / "data").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    (out / "data" / "train-extra.parquet").write_bytes(b"")
    (out / "README.md").unlink()
    (folder.prompts / "tokens.bin").unlink()
    problems = "\n".join(verify(out))
    for name in (first.name, second.name, "train-extra.parquet", "README.md", "tokens.bin"):
        assert name in problems
    assert third.name not in problems


def test_verify_counts_rows_itself(out: Path, format: str) -> None:
    """A file may match its own hash while its rows are not what the entry and the plan say."""
    folder = begin(out, format=format)
    fill(folder)
    shifted = make_plan(folder.plan.prompts, range_size=4, format=format)
    rows = [make_row(folder.plan, sequence_id) for sequence_id in shifted.sequence_ids(4)]
    other = CorpusFolder(out)
    other.plan = shifted
    entry = commit_range(other, 4, rows)
    forged = entry.model_copy(update={"plan_sha256": folder.plan.sha256})
    record = folder.range_entry_path(4)
    write_record(record, forged.model_dump(mode="json"))
    (problem,) = verify(out)
    assert f"range-0000004.{format}: sequence ids are not 32 to 39, each once" in problem
    commit_range(folder, 4, make_rows(folder.plan, 4))
    entry = RangeEntry.model_validate(read_record(record))
    forged = entry.model_copy(update={"words": entry.words + 1})
    write_record(record, forged.model_dump(mode="json"))
    (problem,) = verify(out)
    assert f"range-0000004.{format}: holds" in problem


def test_a_range_of_another_plan_is_noticed(out: Path, format: str, tmp_path: Path) -> None:
    folder = begin(out, format=format)
    fill(folder)
    (tmp_path / "others").mkdir()
    other = begin(tmp_path / "others" / "out", seed=1, format=format)
    fill(other)
    for suffix in (f".{format}", ".json"):
        source = other.range_path(2).with_suffix(suffix)
        folder.range_path(2).with_suffix(suffix).write_bytes(source.read_bytes())
    assert verify(out) == [f".cdgen/ranges/range-0000002.{format}: made for another plan"]
    with pytest.raises(StorageError, match=r"range 2 of 5 is unusable: .*made for another plan"):
        finalize(out)
