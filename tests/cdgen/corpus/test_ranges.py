"""The corpus on disk: rows, commit, status, finalize, the card, verify."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from cdgen import packages
from cdgen.corpus import files as row_files
from cdgen.corpus.files import columns_of, read_rows, require_writer
from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import RangeEntry, read_manifest
from cdgen.corpus.plan import Plan, library_versions
from cdgen.corpus.prompts import PromptSource, PromptTable, open_table, prepare_prompts
from cdgen.corpus.ranges import (
    check_space,
    commit_range,
    pending_ranges,
    read_range,
)
from cdgen.corpus.reader import corpus_rows, rows_so_far
from cdgen.corpus.rows import NOTHING, Row, render_text
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import beat, status
from cdgen.corpus.verify import verify
from cdgen.errors import PlanMismatch, StorageError, UsageError
from cdgen.storage import read_record, write_record

WORDS = ["<unk>", "<s>", "</s>", "one", "two", "three", "four", "five", "six", "seven"]
WHOLE = Shard(0, 1)


def make_tokenizer() -> Tokenizer:
    vocab = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def make_plan(table: PromptTable, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "cdgen_version": "0.1.0",
        "prompts": table.plan,
        "good_sha256": "c" * 64,
        "bad": "dropout:0.5",
        "sampling": {
            "good_weight": 1.0,
            "bad_weight": 1.0,
            "alpha": 0.1,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
        },
        "strategy": "cd",
        "seed": 0,
        "sequences_per_prompt": 4,
        "num_sequences": 4 * len(table),
        "max_new_tokens": 6,
        "on_eos": "stop",
        "eos_token_ids": [2],
        "vocab_size": 10,
        "logprobs": False,
        "slots": 16,
        "range_size": 8,
        "rows_per_file": 16,
        "dtype": "float32",
        "device": "cpu",
        "decoder": "lean",
        "backend": "cpu",
    }
    return Plan.model_validate(fields | changes)


def make_row(plan: Plan, sequence_id: int) -> Row:
    new_tokens = sequence_id * 5 % (plan.max_new_tokens + 1)
    tokens = [1, 3, *(3 + (sequence_id + i) % 7 for i in range(new_tokens))]
    reasons = ("eos", "length", "length", "quarantined")
    return Row(
        sequence_id=sequence_id,
        prompt_id=plan.prompt_id(sequence_id),
        text=" ".join(WORDS[token] for token in tokens[1:]),
        tokens=tokens,
        prompt_tokens=2,
        new_tokens=new_tokens,
        finish_reason=reasons[sequence_id % 4],
        mean_plausible=1 + sequence_id / 8,
        good_logprob=-sequence_id / 4 if plan.logprobs and new_tokens else None,
    )


def make_rows(plan: Plan, index: int) -> list[Row]:
    return [make_row(plan, sequence_id) for sequence_id in plan.sequence_ids(index)]


def begin(out: Path, **changes: Any) -> Plan:
    source = out.parent / "prompts.txt"
    source.write_text("one two three\n" * 10)
    with CorpusFolder(out).set_up():
        origin = PromptSource(str(source), make_tokenizer(), "0" * 64, 1, 2)
        table = prepare_prompts(origin, CorpusFolder(out).prompts)
        plan = make_plan(table, **changes)
        CorpusFolder(out).open_plan(plan)
    return plan


def fill(out: Path, plan: Plan) -> None:
    for index in pending_ranges(CorpusFolder(out), WHOLE):
        commit_range(CorpusFolder(out), index, make_rows(plan, index))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(params=["parquet", "jsonl"])
def format(request: pytest.FixtureRequest) -> str:
    """The format of the corpus's files."""
    return str(request.param)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "ROWS_PER_GROUP", 5)


# ---- text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([1, 3, 4], "onetwo"),
        ([1, 3, 2], "one"),
        ([1, 3, 2, 1, 4, 5, 2], "one\n\ntwothree"),
        ([1, 3, 2, 4, 2, 2, 1], "one\n\ntwo"),
        ([1, 2], ""),
    ],
)
def test_documents_are_parted_by_blank_lines(tokens: list[int], text: str) -> None:
    assert render_text(make_tokenizer(), tokens, {1, 2}) == text


# ---- commit ------------------------------------------------------------------------------------


def test_a_committed_range_has_the_contracts_columns_and_counts(out: Path) -> None:
    made = begin(out)
    rows = make_rows(made, 1)
    entry = commit_range(CorpusFolder(out), 1, reversed(rows))
    table = pq.read_table(CorpusFolder(out).range_path(1))
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
    assert entry == read_range(CorpusFolder(out), 1)
    assert entry.rows == 8
    assert entry.tokens == sum(len(row.tokens) for row in rows)
    assert entry.new_tokens == sum(row.new_tokens for row in rows)
    assert entry.words == sum(len(row.text.split()) for row in rows)
    assert entry.text_bytes == sum(len(row.text.encode()) for row in rows)
    assert entry.finish_reasons == {"eos": 2, "length": 4, "quarantined": 2}
    data = CorpusFolder(out).range_path(1).read_bytes()
    assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_logprobs_add_a_column(out: Path) -> None:
    made = begin(out, logprobs=True)
    commit_range(CorpusFolder(out), 0, make_rows(made, 0))
    column = pq.read_table(CorpusFolder(out).range_path(0))["good_logprob"]
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
    made = begin(out)
    with pytest.raises(ValueError, match=r"range 0|sequence 0|sequence 7"):
        commit_range(CorpusFolder(out), 0, change(make_rows(made, 0)))
    assert list(CorpusFolder(out).range_path(0).parent.iterdir()) == []


def test_pending_ranges_shrink_by_commits_and_by_shard(out: Path) -> None:
    made = begin(out)
    assert made.num_ranges == 5
    assert pending_ranges(CorpusFolder(out), Shard(1, 2)) == [1, 3]
    commit_range(CorpusFolder(out), 3, make_rows(made, 3))
    assert pending_ranges(CorpusFolder(out), WHOLE) == [0, 1, 2, 4]
    assert pending_ranges(CorpusFolder(out), Shard(1, 2)) == [1]
    assert pending_ranges(CorpusFolder(out), Shard(7, 9)) == []


def test_a_range_is_committed_only_with_an_intact_entry_and_the_whole_file(
    out: Path, format: str
) -> None:
    made = begin(out, format=format)
    fill(out, made)
    CorpusFolder(out).range_path(0).with_suffix(".json").unlink()
    CorpusFolder(out).range_path(1).unlink()
    CorpusFolder(out).range_path(2).write_bytes(CorpusFolder(out).range_path(2).read_bytes()[:-1])
    entry = CorpusFolder(out).range_path(3).with_suffix(".json")
    entry.write_bytes(entry.read_bytes().replace(b'"rows": 8', b'"rows": 9'))
    assert pending_ranges(CorpusFolder(out), WHOLE) == [0, 1, 2, 3]
    fill(out, made)
    assert verify(out) == []


def test_too_little_space_for_one_range(out: Path) -> None:
    begin(out)
    check_space(CorpusFolder(out))
    huge = out.parent / "huge"
    begin(huge, range_size=10**15, max_new_tokens=1000)
    with pytest.raises(StorageError, match=r"too full: .* MB needed for the next file"):
        check_space(CorpusFolder(huge))


# ---- status ------------------------------------------------------------------------------------


def test_status_counts_ranges_and_workers(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = begin(out)
    assert status(out).counts == NOTHING
    assert status(out).eta_seconds is None
    fill_some = [commit_range(CorpusFolder(out), index, make_rows(made, index)) for index in (0, 1)]
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    beat(CorpusFolder(out), Shard(1, 2), range_index=3, new_tokens=50, tokens_per_second=4.0)
    monkeypatch.setattr(time, "time", lambda: 1300.0)
    beat(CorpusFolder(out), Shard(0, 2), range_index=2, new_tokens=80, tokens_per_second=6.0)
    found = status(out)
    assert (found.ranges_done, found.ranges_total, found.finalized) == (2, 5, False)
    assert found.counts == fill_some[0].counts + fill_some[1].counts
    alive, silent = found.workers
    assert (alive.shard, alive.range_index, alive.new_tokens) == ("0/2", 2, 80)
    assert [found.is_alive(worker) for worker in (alive, silent)] == [True, False]
    per_row = found.counts.new_tokens / 16
    assert found.eta_seconds == pytest.approx(24 * per_row / 6.0)
    fill(out, made)
    assert status(out).eta_seconds is None
    finalize(out)
    done = status(out)
    assert (done.ranges_done, done.finalized, done.counts.rows) == (5, True, 40)


def test_a_worker_that_ends_takes_its_heartbeat_along(out: Path) -> None:
    begin(out)
    with CorpusFolder(out).hold_shard(WHOLE):
        beat(CorpusFolder(out), WHOLE, 0, 1, 1.0)
        assert CorpusFolder(out).heartbeat_path(WHOLE).exists()
    assert status(out).workers == ()


def test_status_of_nothing(tmp_path: Path) -> None:
    for read in (status, verify, finalize):
        with pytest.raises(UsageError, match="no cdgen corpus"):
            read(tmp_path)
        assert list(tmp_path.iterdir()) == []


# ---- finalize ----------------------------------------------------------------------------------


def test_the_finished_files_hold_every_row_once_in_order(out: Path, small_groups: None) -> None:
    made = begin(out)
    fill(out, made)
    manifest = finalize(out)
    paths = sorted((out / "data").iterdir())
    assert [path.name for path in paths] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert [path.relative_to(out).as_posix() for path in paths] == [f.path for f in manifest.files]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert [row["sequence_id"] for row in rows] == list(range(40))
    assert [row["tokens"] for row in rows] == [make_row(made, i).tokens for i in range(40)]
    groups = pq.ParquetFile(paths[0]).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [5, 5, 5, 1]
    for file, path in zip(manifest.files, paths, strict=True):
        data = path.read_bytes()
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert manifest.totals.tokens == sum(len(row["tokens"]) for row in rows)
    assert manifest.totals.finish_reasons == {"eos": 10, "length": 20, "quarantined": 10}
    assert not (out / ".cdgen" / "ranges").exists()
    assert verify(out) == []


def test_the_manifest_says_nothing_of_time_or_place(out: Path, tmp_path: Path) -> None:
    texts = []
    for folder in (out, tmp_path / "elsewhere" / "other-name"):
        folder.parent.mkdir(exist_ok=True)
        made = begin(folder)
        fill(folder, made)
        finalize(folder)
        texts.append([(folder / name).read_bytes() for name in ("manifest.json", "README.md")])
    assert texts[0] == texts[1]
    manifest = json.loads(texts[0][0])
    assert manifest["plan_sha256"] == made.sha256
    assert set(manifest["plan"]["libraries"]) == {"torch", "transformers", "tokenizers", "pyarrow"}


def snapshot(out: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and modification time of every file except locks."""
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_running_again_after_finalize_touches_nothing(out: Path, format: str) -> None:
    fill(out, begin(out, format=format))
    first = finalize(out)
    before = snapshot(out)
    made = begin(out, format=format)
    assert pending_ranges(CorpusFolder(out), WHOLE) == []
    fill(out, made)
    assert snapshot(out) == before
    assert not (out / ".cdgen" / "ranges").exists()
    assert finalize(out) == first
    with pytest.raises(PlanMismatch, match="seed: was 0, now 1"):
        begin(out, seed=1, format=format)
    assert snapshot(out) == before


def test_a_published_copy_without_its_state_is_still_a_corpus(out: Path, tmp_path: Path) -> None:
    made = begin(out)
    fill(out, made)
    finalize(out)
    (out / ".cdgen").rename(tmp_path / "state")
    assert CorpusFolder(out).plan == made
    assert verify(out) == []
    assert status(out).finalized
    assert finalize(out) == read_manifest(CorpusFolder(out))
    assert not (out / ".cdgen").exists()
    with pytest.raises(PlanMismatch, match="seed: was 0, now 1"):
        begin(out, seed=1)


def test_finalize_refuses_missing_and_damaged_ranges(out: Path, format: str) -> None:
    made = begin(out, format=format)
    fill(out, made)
    path = CorpusFolder(out).range_path(3)
    good = path.read_bytes()
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    with pytest.raises(StorageError, match=r"range 3 of 5 is unusable: .*range-0000003\."):
        finalize(out)
    path.unlink()
    with pytest.raises(StorageError, match=r"1 of 5 ranges are missing, the first is range 3\."):
        finalize(out)
    assert not (out / "manifest.json").exists()
    fill(out, made)
    finalize(out)
    assert verify(out) == []


def test_finalize_asks_for_space_before_it_writes(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(out, begin(out))
    usage = shutil.disk_usage(out)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_000))
    with pytest.raises(StorageError, match=r"too full: .* needed for the next file, 0\.0 MB free"):
        finalize(out)
    assert not (out / "data").exists()


def test_a_range_of_another_plan_is_noticed(out: Path, format: str, tmp_path: Path) -> None:
    made = begin(out, format=format)
    fill(out, made)
    (tmp_path / "others").mkdir()
    other = tmp_path / "others" / "out"
    fill(other, begin(other, seed=1, format=format))
    for suffix in (f".{format}", ".json"):
        source = CorpusFolder(other).range_path(2).with_suffix(suffix)
        CorpusFolder(out).range_path(2).with_suffix(suffix).write_bytes(source.read_bytes())
    assert verify(out) == [f".cdgen/ranges/range-0000002.{format}: made for another plan"]
    with pytest.raises(StorageError, match=r"range 2 of 5 is unusable: .*made for another plan"):
        finalize(out)


def test_finalize_wants_the_pyarrow_of_the_plan(out: Path) -> None:
    versions = {**library_versions("parquet"), "pyarrow": "1.0.0"}
    fill(out, begin(out, libraries=versions))
    with pytest.raises(PlanMismatch, match=r"begun with pyarrow 1\.0\.0"):
        finalize(out)


def test_datasets_reads_the_finished_folder(
    out: Path, format: str, tmp_path: Path, small_groups: None
) -> None:
    import datasets

    made = begin(out, logprobs=True, format=format)
    fill(out, made)
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


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(drawn=st.lists(st.tuples(TEXTS, NUMBERS, NUMBERS), min_size=8, max_size=8))
def test_both_formats_hold_the_same_rows(drawn: list[tuple[str, float, float]]) -> None:
    """The rows are equal to the bit of each float32, and so are the counts."""
    found = []
    for format in ("parquet", "jsonl"):
        with TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            made = begin(out, format=format, logprobs=True)
            fill(out, made)
            changed = [
                replace(
                    row, text=text, mean_plausible=a, good_logprob=b if row.new_tokens else None
                )
                for row, (text, a, b) in zip(make_rows(made, 2), drawn, strict=True)
            ]
            commit_range(CorpusFolder(out), 2, changed)
            rows = list(rows_so_far(out, list(columns_of(made))))
            totals = finalize(out).totals
            assert list(corpus_rows(out, list(columns_of(made)))) == rows
            assert verify(out) == []
            found.append((rows, totals))
    assert found[0] == found[1]
    stored = found[0][0][16:24]
    assert [(row["text"], row["mean_plausible"]) for row in stored] == [d[:2] for d in drawn]


def test_a_json_line_holds_the_columns_in_order_and_short_numbers(out: Path) -> None:
    made = begin(out, format="jsonl", logprobs=True)
    rows = make_rows(made, 0)
    rows[1] = replace(rows[1], text="\u00fc\n\u2028", mean_plausible=0.1, good_logprob=-1 / 3)
    commit_range(CorpusFolder(out), 0, rows)
    lines = CorpusFolder(out).range_path(0).read_bytes().split(b"\n")
    assert lines[1].decode() == (
        '{"sequence_id":1,"prompt_id":0,"text":"\u00fc\\n\u2028","tokens":[1,3,4,5,6,7,8],'
        '"prompt_tokens":2,"new_tokens":5,"finish_reason":"length","mean_plausible":0.1,'
        '"good_logprob":-0.33333334}'
    )
    assert (len(lines), lines[-1]) == (9, b"")


def test_finished_json_lines_are_those_of_the_ranges(out: Path) -> None:
    made = begin(out, format="jsonl")
    fill(out, made)
    ranges = [CorpusFolder(out).range_path(index).read_bytes() for index in range(5)]
    finalize(out)
    paths = sorted((out / "data").iterdir())
    assert [path.name for path in paths] == [f"train-0000{i}-of-00003.jsonl" for i in range(3)]
    pairs = [ranges[0] + ranges[1], ranges[2] + ranges[3], ranges[4]]
    assert [path.read_bytes() for path in paths] == pairs


def test_the_card_names_what_decides_the_corpus(out: Path) -> None:
    made = begin(out)
    fill(out, made)
    finalize(out)
    card = (out / "README.md").read_text()
    for fact in (
        made.good_sha256,
        made.sha256,
        made.prompts.source_sha256,
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


# ---- reading rows ------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["flipped", "short", "gone", "swapped"])
def test_rows_of_a_damaged_file_are_never_read(out: Path, format: str, harm: str) -> None:
    """The rows of the files before it are read."""
    fill(out, begin(out, format=format))
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
    fill(out, begin(out, format=format))
    finalize(out)
    first = min((out / "data").iterdir())
    (out / "data" / f"train-stray.{format}").write_bytes(first.read_bytes())
    rows = list(corpus_rows(out, ["text", "sequence_id"]))
    assert [row["sequence_id"] for row in rows] == list(range(40))
    assert all(set(row) == {"text", "sequence_id"} for row in rows)
    with pytest.raises(UsageError, match=r"no column \['good_logprob'\], only \['sequence_id'"):
        corpus_rows(out, ["good_logprob"])


def test_rows_of_what_is_no_finished_corpus(out: Path) -> None:
    made = begin(out)
    with pytest.raises(StorageError, match=r"cannot read .*manifest\.json"):
        corpus_rows(out, ["text"])
    with pytest.raises(UsageError, match="no range is committed yet"):
        rows_so_far(out, ["text"])
    commit_range(CorpusFolder(out), 3, make_rows(made, 3))
    assert [row["sequence_id"] for row in rows_so_far(out, ["sequence_id"])] == list(range(24, 32))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text":"a"}\n{"text"', "line 2"),
        (b'{"text":"a"}\n{"txt":"b"}\n', "line 2: no column 'text'"),
        (b'{"text":"a"}\n["b"]\n', "line 2"),
        (b'{"text":"a"}\n{"text":"\xff"}\n', "line 2"),
        (b'{"text":"a"}\n{"text":"b","mean_plausible":"x"}\n', "line 2"),
    ],
)
def test_json_lines_that_are_no_rows(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    rows = read_rows(path, ["text"])
    assert next(rows) == {"text": "a"}
    with pytest.raises(StorageError, match=said):
        next(rows)


def test_without_pyarrow_parquet_is_refused_by_name(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = begin(out)
    commit_range(CorpusFolder(out), 0, make_rows(made, 0))
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    require_writer("jsonl")
    with pytest.raises(UsageError, match=r"install pyarrow, or give --format jsonl$"):
        require_writer("parquet")
    with pytest.raises(UsageError, match=r"install pyarrow to read .*range-0000000\.parquet"):
        list(rows_so_far(out, ["text"]))
    with pytest.raises(UsageError, match=r"install pyarrow to finalize"):
        finalize(out)


# ---- verify ------------------------------------------------------------------------------------


def committed_files(out: Path) -> Iterator[Path]:
    ignored = {".lock"}
    yield from sorted(p for p in out.rglob("*") if p.is_file() and p.suffix not in ignored)


@pytest.mark.parametrize("finished", [False, True])
def test_verify_names_the_file_of_every_flipped_byte(
    out: Path, format: str, finished: bool, small_groups: None
) -> None:
    made = begin(out, format=format)
    fill(out, made)
    if finished:
        finalize(out)
    assert verify(out) == []
    files = list(committed_files(out))
    assert len(files) == (3 + 2 + 3 if finished else 2 * 5 + 3)
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
    made = begin(out, format=format)
    commit_range(CorpusFolder(out), 2, make_rows(made, 2))
    assert verify(out) == [f"{out} is incomplete: 4 of 5 ranges are missing."]
    fill(out, made)
    finalize(out)
    first, second, third = sorted((out / "data").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    (out / "data" / "train-extra.parquet").write_bytes(b"")
    (out / "README.md").unlink()
    (CorpusFolder(out).prompts / "tokens.bin").unlink()
    problems = "\n".join(verify(out))
    for name in (first.name, second.name, "train-extra.parquet", "README.md", "tokens.bin"):
        assert name in problems
    assert third.name not in problems


def test_verify_counts_rows_itself(out: Path, format: str) -> None:
    """A file may match its own hash while its rows are not what the entry and the plan say."""
    made = begin(out, format=format)
    fill(out, made)
    shifted = make_plan(open_table(CorpusFolder(out).prompts), range_size=4, format=format)
    rows = [make_row(made, sequence_id) for sequence_id in shifted.sequence_ids(4)]
    folder = CorpusFolder(out)
    folder.plan = shifted
    entry = commit_range(folder, 4, rows)
    forged = entry.model_copy(update={"plan_sha256": made.sha256})
    record = CorpusFolder(out).range_path(4).with_suffix(".json")
    write_record(record, forged.model_dump(mode="json"))
    (problem,) = verify(out)
    assert f"range-0000004.{format}: sequence ids are not 32 to 39, each once" in problem
    commit_range(CorpusFolder(out), 4, make_rows(made, 4))
    entry = RangeEntry.model_validate(read_record(record))
    forged = entry.model_copy(update={"words": entry.words + 1})
    write_record(record, forged.model_dump(mode="json"))
    (problem,) = verify(out)
    assert f"range-0000004.{format}: holds" in problem
