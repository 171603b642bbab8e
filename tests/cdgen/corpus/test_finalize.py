"""The finished corpus: its files, its card, and a second call that changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from small_corpus import WHOLE, begin, fill, make_row

from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import read_manifest
from cdgen.corpus.plan import library_versions
from cdgen.corpus.ranges import pending_ranges
from cdgen.corpus.reader import corpus_rows
from cdgen.corpus.status import status
from cdgen.corpus.verify import verify
from cdgen.errors import PlanMismatch, StorageError
from cdgen.storage import read_record, write_record


def test_the_finished_files_hold_every_row_once_in_order(out: Path, small_groups: None) -> None:
    folder = begin(out)
    fill(folder)
    manifest = finalize(out)
    paths = sorted((out / "data").iterdir())
    assert [path.name for path in paths] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert [path.relative_to(out).as_posix() for path in paths] == [f.path for f in manifest.files]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert [row["sequence_id"] for row in rows] == list(range(40))
    assert [row["tokens"] for row in rows] == [make_row(folder.plan, i).tokens for i in range(40)]
    groups = pq.ParquetFile(paths[0]).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [5, 5, 5, 1]
    for file, path in zip(manifest.files, paths, strict=True):
        data = path.read_bytes()
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert manifest.totals.tokens == sum(len(row["tokens"]) for row in rows)
    assert manifest.totals.finish_reasons == {"eos": 10, "length": 20, "quarantined": 10}
    assert not (out / ".cdgen" / "ranges").exists()
    assert verify(out) == []


def test_finished_json_lines_are_those_of_the_ranges(out: Path) -> None:
    folder = begin(out, format="jsonl")
    fill(folder)
    ranges = [folder.range_path(index).read_bytes() for index in range(5)]
    finalize(out)
    paths = sorted((out / "data").iterdir())
    assert [path.name for path in paths] == [f"train-0000{i}-of-00003.jsonl" for i in range(3)]
    pairs = [ranges[0] + ranges[1], ranges[2] + ranges[3], ranges[4]]
    assert [path.read_bytes() for path in paths] == pairs


def test_the_manifest_says_nothing_of_time_or_place(out: Path, tmp_path: Path) -> None:
    texts = []
    for place in (out, tmp_path / "elsewhere" / "other-name"):
        place.parent.mkdir(exist_ok=True)
        folder = begin(place)
        fill(folder)
        finalize(place)
        texts.append([(place / name).read_bytes() for name in ("manifest.json", "README.md")])
    assert texts[0] == texts[1]
    manifest = json.loads(texts[0][0])
    assert manifest["plan_sha256"] == folder.plan.sha256
    assert set(manifest["plan"]["libraries"]) == {"torch", "transformers", "tokenizers", "pyarrow"}


def published(out: Path) -> dict[str, bytes]:
    """Return every file of the finished corpus, without the state of its making."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    names = {path: str(path.relative_to(out)) for path in files}
    return {name: path.read_bytes() for path, name in names.items() if name[0] != "."}


def snapshot(out: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and modification time of every file except locks."""
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_running_again_after_finalize_touches_nothing(out: Path, format: str) -> None:
    fill(begin(out, format=format))
    first = finalize(out)
    before = snapshot(out)
    folder = begin(out, format=format)
    assert pending_ranges(folder, WHOLE) == []
    fill(folder)
    assert snapshot(out) == before
    assert not (out / ".cdgen" / "ranges").exists()
    assert finalize(out) == first
    with pytest.raises(PlanMismatch, match="seed: was 0, now 1"):
        begin(out, seed=1, format=format)
    assert snapshot(out) == before


def test_a_published_copy_without_its_state_is_still_a_corpus(out: Path, tmp_path: Path) -> None:
    folder = begin(out)
    fill(folder)
    finalize(out)
    (out / ".cdgen").rename(tmp_path / "state")
    assert CorpusFolder(out).plan == folder.plan
    assert verify(out) == []
    assert status(out).finalized
    assert finalize(out) == read_manifest(folder)
    assert not (out / ".cdgen").exists()
    with pytest.raises(PlanMismatch, match="seed: was 0, now 1"):
        begin(out, seed=1)


def lose(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [lose, shorten])
def test_a_finished_corpus_whose_data_is_not_there_is_not_complete(
    out: Path, format: str, damage: Callable[[Path], None]
) -> None:
    folder = begin(out, format=format)
    fill(folder)
    first = finalize(out)
    before = published(out)
    damage(folder.data_path(1))
    expected = rf"{out} is damaged: data/train-00001-of-00003\.{format}: .*\. Delete {out}/manifest"
    with pytest.raises(StorageError, match=expected):
        finalize(out)
    folder.manifest_file.unlink()  # what it says
    fill(begin(out, format=format))
    assert finalize(out) == first
    assert published(out) == before


def test_a_published_copy_that_lacks_a_file_is_to_be_fetched_again(out: Path) -> None:
    folder = begin(out)
    fill(folder)
    finalize(out)
    folder.data_path(2).unlink()
    shutil.rmtree(folder.state)
    with pytest.raises(StorageError, match=rf"Fetch {out} again from where it was published\.$"):
        finalize(out)
    assert not folder.state.exists()


def test_finalize_refuses_missing_and_damaged_ranges(out: Path, format: str) -> None:
    folder = begin(out, format=format)
    fill(folder)
    path = folder.range_path(3)
    good = path.read_bytes()
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    with pytest.raises(StorageError, match=r"range 3 of 5 is unusable: .*range-0000003\."):
        finalize(out)
    path.unlink()
    with pytest.raises(StorageError, match=r"1 of 5 ranges are missing, the first is range 3\."):
        finalize(out)
    assert not (out / "manifest.json").exists()
    fill(folder)
    finalize(out)
    assert verify(out) == []


def test_finalize_asks_for_space_before_it_writes(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(begin(out))
    usage = shutil.disk_usage(out)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_000))
    with pytest.raises(StorageError, match=r"needed for the merged files, 0\.0 MB free"):
        finalize(out)
    assert not (out / "data").exists()


def test_finalize_wants_the_pyarrow_of_the_plan(out: Path) -> None:
    versions = {**library_versions("parquet"), "pyarrow": "1.0.0"}
    fill(begin(out, libraries=versions))
    with pytest.raises(PlanMismatch, match=r"begun with pyarrow 1\.0\.0"):
        finalize(out)


def test_datasets_reads_the_finished_folder(
    out: Path, format: str, tmp_path: Path, small_groups: None
) -> None:
    import datasets

    folder = begin(out, logprobs=True, format=format)
    fill(folder)
    totals = finalize(out).totals
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == totals.rows == 40
    assert loaded["sequence_id"] == list(range(40))
    assert sum(map(len, loaded["tokens"])) == totals.tokens
    assert sum(loaded["new_tokens"]) == totals.new_tokens
    assert sum(len(text.split()) for text in loaded["text"]) == totals.words
    assert loaded.features["tokens"] == datasets.List(datasets.Value("int32"))
    assert loaded.features["good_logprob"] == datasets.Value("float32")
    _, header, _ = (out / "README.md").read_text().split("---\n", 2)
    info = yaml.safe_load(header)["dataset_info"]
    assert datasets.Features._from_yaml_list(info["features"]) == loaded.features
    assert info["splits"][0]["num_examples"] == 40
    assert info["download_size"] == sum(path.stat().st_size for path in (out / "data").iterdir())
    assert loaded.to_list() == list(corpus_rows(out, list(loaded.features)))
    table = loaded.data.table
    columns = [table.column(name).combine_chunks() for name in table.column_names]
    validity_bytes = 40 // 8  # of good_logprob, the one column with nulls; not declared
    assert info["dataset_size"] == sum(column.nbytes for column in columns) - validity_bytes


def test_the_card_names_what_decides_the_corpus(out: Path) -> None:
    folder = begin(out)
    fill(folder)
    finalize(out)
    card = (out / "README.md").read_text()
    for fact in (
        folder.plan.good_sha256,
        folder.plan.sha256,
        folder.plan.prompts.source_sha256,
        "| BAD | `dropout:0.5` |",
        "| score | 1.0 x GOOD - 1.0 x BAD |",
        "| plausibility threshold alpha | 0.1 |",
        "40 (10 eos, 20 length, 10 quarantined)",
        "- synthetic",
        "- machine-generated",
        "n<1K",
    ):
        assert fact in card
    assert "good_logprob" not in card


def test_the_origins_of_the_prompts_are_published(out: Path, format: str) -> None:
    folder = begin(out, format=format)
    fill(folder)
    manifest = finalize(out)
    lines = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert lines == [{"prompt_id": n, "file": "prompts.txt", "row": n + 1} for n in range(10)]
    assert manifest.prompts is not None and manifest.prompts.path == "prompts.jsonl"
    assert "`prompts.jsonl` says for every `prompt_id`" in (out / "README.md").read_text()


@pytest.mark.parametrize("name", ["origins.jsonl", "tokens.bin"])
def test_prompts_that_are_gone_are_made_again_by_generate(out: Path, name: str) -> None:
    """Without this, a corpus would be finished without the origins of its prompts."""
    folder = begin(out)
    fill(folder)
    before = (folder.prompts / name).read_bytes()
    (folder.prompts / name).unlink()
    with pytest.raises(StorageError, match=rf"{name} is damaged.* generate command makes it again"):
        finalize(out)
    begin(out)
    assert (folder.prompts / name).read_bytes() == before
    assert finalize(out).prompts is not None


def test_a_corpus_that_an_older_cdgen_began_has_none(out: Path) -> None:
    """Its manifest and card are those that the older one would have written."""
    folder = begin(out)
    fill(folder)
    (folder.prompts / "origins.jsonl").unlink()
    record = read_record(folder.prompts / "prompts.json")
    del record["origins_sha256"]
    write_record(folder.prompts / "prompts.json", record)
    finalize(out)
    assert "prompts" not in read_record(out / "manifest.json")
    assert "prompts.jsonl" not in (out / "README.md").read_text()
    assert verify(out) == []
