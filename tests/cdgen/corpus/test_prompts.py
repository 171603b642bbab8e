"""The prompt table: made once from its source, compared afterwards."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prompt_tokenizers import KINDS, TEXT, TOKENIZER, in_full
from tokenizers import Tokenizer, normalizers

from cdgen.checkpoints.pair import tokenizer_sha256
from cdgen.corpus import prompts
from cdgen.corpus.documents import open_source
from cdgen.corpus.prompts import PromptSource, PromptTable, open_table, prepare_prompts
from cdgen.errors import PlanMismatch, StorageError, UsageError
from cdgen.storage import read_record, write_record


def prepare(
    source: str, tokenizer: Tokenizer, bos: int | None, prompt_tokens: int, folder: Path
) -> PromptTable:
    prefix = () if bos is None else (bos,)
    origin = PromptSource(source, tokenizer, tokenizer_sha256(tokenizer), prefix, prompt_tokens)
    return prepare_prompts(origin, folder)


def source_file(folder: Path, texts: list[str]) -> str:
    path = folder / "source.txt"
    path.write_text("\n".join(texts) + "\n")
    return str(path)


@pytest.mark.parametrize("bos", [None, 1])
def test_the_table_holds_every_prompt(tmp_path: Path, bos: int | None) -> None:
    documents = [*TEXT, "the", *(f"cat {n}" for n in range(700))]
    source = source_file(tmp_path, documents)
    table = prepare(source, TOKENIZER, bos, 6, tmp_path)
    expected = [in_full(TOKENIZER, text, bos, 6) for text in documents]
    assert [table[i] for i in range(len(table))] == expected
    assert [open_table(tmp_path)[i] for i in range(len(documents))] == expected
    assert table.plan.count == len(documents)
    assert table.plan.source_sha256 == open_source(source).sha256()
    size = (tmp_path / "tokens.bin").stat().st_size
    assert size == len(documents) * 6 * 4


def test_bos_counts_and_may_be_all(tmp_path: Path) -> None:
    table = prepare(source_file(tmp_path, TEXT), TOKENIZER, 1, 1, tmp_path)
    assert [table[i] for i in range(len(table))] == [[1]] * 3
    with pytest.raises(UsageError, match="expected 1 or more, got 0"):
        prepare(source_file(tmp_path, TEXT), TOKENIZER, 1, 0, tmp_path)


def test_prompts_from_a_pipe(tmp_path: Path) -> None:
    """What it delivers is copied, because documents are read more than once."""
    source, pipe = source_file(tmp_path, TEXT), tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    writer = Thread(target=lambda: pipe.write_bytes(Path(source).read_bytes()))
    writer.start()
    (tmp_path / "of-pipe").mkdir()
    table = prepare(str(pipe), TOKENIZER, 1, 6, tmp_path / "of-pipe")
    writer.join()
    assert table.plan == prepare(source, TOKENIZER, 1, 6, tmp_path).plan
    assert '"file": "pipe.txt"' in (tmp_path / "of-pipe/origins.jsonl").read_text()


def test_a_table_is_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_file(tmp_path, TEXT)
    first = prepare(source, TOKENIZER, 1, 6, tmp_path)
    monkeypatch.setattr(prompts, "first_tokens", None)
    again = prepare(source, TOKENIZER, 1, 6, tmp_path)
    assert again.plan == first.plan
    assert again[2] == first[2]


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    source = source_file(tmp_path, TEXT)
    prepare(source, TOKENIZER, 1, 6, tmp_path)
    with pytest.raises(PlanMismatch, match="prompt_tokens: was 6, now 7"):
        prepare(source, TOKENIZER, 1, 7, tmp_path)
    with pytest.raises(PlanMismatch, match=r"prefix_token_ids: was \[1\], now \[\]"):
        prepare(source, TOKENIZER, None, 6, tmp_path)
    with pytest.raises(PlanMismatch, match="tokenizer_sha256"):
        prepare(source, KINDS["llama"], 1, 6, tmp_path)
    with pytest.raises(PlanMismatch, match="source_sha256"):
        prepare(source_file(tmp_path, TEXT[:2]), TOKENIZER, 1, 6, tmp_path)


def test_a_tokenizer_hashed_by_an_older_cdgen_is_refused_with_advice(tmp_path: Path) -> None:
    """Older tables record the hash of the whole tokenizer.json."""
    source = source_file(tmp_path, TEXT)
    prepare(source, TOKENIZER, 1, 6, tmp_path)
    whole = hashlib.sha256(TOKENIZER.to_str().encode()).hexdigest()
    record = read_record(tmp_path / "prompts.json")
    write_record(tmp_path / "prompts.json", record | {"tokenizer_sha256": whole})
    with pytest.raises(
        PlanMismatch, match=rf"(?s)tokenizer_sha256: was {whole}, now .*an older cdgen"
    ):
        prepare(source, TOKENIZER, 1, 6, tmp_path)


def test_origins_name_file_row_and_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = tmp_path / "seeds"
    (seeds / "more").mkdir(parents=True)
    (seeds / "a.txt").write_text("\nthe cat\n \nthe dog\n")
    rows = [{"text": "the mat", "id": "x-7"}, {"text": " ", "id": 8}, {"text": "a bird", "id": 9}]
    (seeds / "more/b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = prepare(str(seeds), TOKENIZER, 1, 6, tmp_path)
    lines = (tmp_path / "origins.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"prompt_id": 0, "file": "a.txt", "row": 2},
        {"prompt_id": 1, "file": "a.txt", "row": 4},
        {"prompt_id": 2, "file": "more/b.jsonl", "row": 1, "id": "x-7"},
        {"prompt_id": 3, "file": "more/b.jsonl", "row": 3, "id": 9},
    ]
    assert [table[i] for i in range(4)] == [
        in_full(TOKENIZER, text, 1, 6) for text in ("the cat", "the dog", "the mat", "a bird")
    ]
    assert capsys.readouterr().err == (
        f"--prompts {seeds}: 4 prompts; blank texts left out: 3; each line is a document;"
        " each row is a document\n"
    )
    (tmp_path / "origins.jsonl").write_text("")
    with pytest.raises(StorageError, match=r"origins\.jsonl is damaged"):
        open_table(tmp_path)


def test_marks_between_stories_are_no_prompts_and_marks_within_are_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("the cat\n\nsat.\n<|endoftext|>\nthe</s> dog <|endoftext|>\n<|endoftext|>\n")
    table = prepare(str(path), TOKENIZER, None, 40, tmp_path)
    texts = ["the cat\n\nsat.", "the</s> dog <|endoftext|>"]
    assert [table[i] for i in range(len(table))] == [
        in_full(TOKENIZER, text, None, 40) for text in texts
    ]
    assert not {0, 1, 2} & set(table[1])
    said = capsys.readouterr().err.removeprefix(f"--prompts {path}: ")
    assert said == (
        "2 prompts; 2 lines <|endoftext|> separate the documents of stories.txt; special tokens"
        " spelled out in documents are read as text: 1 </s>, 1 <|endoftext|>\n"
    )


def test_any_id_and_any_file_name_can_be_recorded(tmp_path: Path) -> None:
    when = datetime(2026, 11, 27)
    folder = tmp_path / "seeds"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["the cat"], "id": [when]}), folder / "a.parquet")
    (folder / "b.jsonl").write_text(
        '{"text": "the", "id": "\\ud83d"}\n{"text": "a", "id": [1, NaN]}\n'
    )
    (folder / "caf\udce9.txt").write_text("the mat\n")
    prepare(str(folder), TOKENIZER, 1, 6, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "origins.jsonl").open()]
    assert [line["id"] for line in lines[:2]] == ["2026-11-27 00:00:00", "\ud83d"]
    assert lines[3]["file"] == "caf\udce9.txt"


def test_texts_without_a_token_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.normalizer = normalizers.Replace("x", "")
    table = prepare(source_file(tmp_path, ["the", "xxx", "x"]), tokenizer, None, 6, tmp_path)
    assert len(table) == 1 and "texts without a token left out: 2" in capsys.readouterr().err


def test_an_older_table_has_no_origins(tmp_path: Path) -> None:
    source = source_file(tmp_path, TEXT)
    first = prepare(source, TOKENIZER, 1, 6, tmp_path)
    (tmp_path / "origins.jsonl").unlink()
    record = read_record(tmp_path / "prompts.json")
    for name in ("origins_sha256", "text_column", "prefix_token_ids"):
        del record[name]
    write_record(tmp_path / "prompts.json", {**record, "bos_token_id": 1})
    assert prepare(source, TOKENIZER, 1, 6, tmp_path).plan == first.plan
    with pytest.raises(PlanMismatch, match=r"prefix_token_ids: was \[1\], now \[\]"):
        prepare(source, TOKENIZER, None, 6, tmp_path)


def test_another_column_is_another_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "the cat", "body": "the dog"}\n')
    origin = PromptSource(str(tmp_path / "a.jsonl"), TOKENIZER, "0" * 64, (1,), 6)
    prepare_prompts(origin, tmp_path)
    with pytest.raises(PlanMismatch, match="text_column: was text, now body"):
        prepare_prompts(replace(origin, text_column="body"), tmp_path)


def damaged_table(folder: Path) -> tuple[str, Path, bytes]:
    """Make a table and change a byte; return the source, the damaged file, and what was in it."""
    source, path = source_file(folder, TEXT), folder / "tokens.bin"
    prepare(source, TOKENIZER, 1, 6, folder)
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"\x7f")
    return source, path, before


def test_a_damaged_table_is_named_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, path, before = damaged_table(tmp_path)
    with pytest.raises(StorageError, match=r"tokens\.bin is damaged"):
        open_table(tmp_path)
    prepare(source, TOKENIZER, 1, 6, tmp_path)
    assert "tokens.bin is damaged" in capsys.readouterr().err
    assert path.read_bytes() == before
    with pytest.raises(PlanMismatch, match="prompt_tokens: was 6, now 5"):
        path.unlink()
        prepare(source, TOKENIZER, 1, 5, tmp_path)


def test_two_workers_make_a_damaged_table_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path, before = damaged_table(tmp_path)
    both, opened, written = Barrier(2), [], []
    write = prompts._write_table

    def open_at_once(folder: Path) -> PromptTable:
        opened.append(1)
        if len(opened) <= 2:
            both.wait(60)  # both find the damage
        return open_table(folder)

    def count_writes(*arguments: Any) -> None:
        written.append(1)
        write(*arguments)

    monkeypatch.setattr(prompts, "open_table", open_at_once)
    monkeypatch.setattr(prompts, "_write_table", count_writes)
    with ThreadPoolExecutor(2) as workers:
        arguments = (source, TOKENIZER, 1, 6, tmp_path)
        tables = [workers.submit(prepare, *arguments).result for _ in range(2)]
        assert [[*table()] for table in tables] == [[*open_table(tmp_path)]] * 2
    assert len(written) == 1 and path.read_bytes() == before


def test_memory_does_not_grow_with_the_prompts(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        source = source_file(folder, [f"the cat {n} sat on the mat" for n in range(count)])
        tracemalloc.start()
        table = prepare(source, TOKENIZER, 1, 6, folder)
        assert len(table) == count
        assert table[count - 1][0] == 1
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # imports and caches
    small, large = peak(3_000), peak(30_000)
    assert large < small + 200_000


# ---- bad sources -------------------------------------------------------------------------------

BAD_FILES = {
    "missing.txt": (None, "no such file or folder"),
    "p.md": (b"text", r"unknown kind of file; expected \.txt"),
    "p.jsonl.zst": (b"text", "cannot read"),
    "cut.txt.zst": (pa.compress(b"text\n" * 999, "zstd", asbytes=True)[:-9], "cannot read"),
    "p.bz2": (b"text", "unknown kind of file"),
    "broken.json": (b'[{"text": "a"}, {"text"', "item 2: not JSON"),
    "latin.json": ('["café"]'.encode("latin-1"), "not UTF-8"),
    "empty.txt": (b"", "no prompt in it"),
    "blank.txt": (b"\n \n\t\r\n", "no prompt in it"),
    "blank.jsonl": (b'{"text": " "}\n', "no prompt in it"),
    "latin.txt": ("ok\nfine\ncafé noir\n".encode("latin-1"), r"line 3: not UTF-8 at byte 11 of"),
    "broken.jsonl": (b'{"text": "a"}\n\n{"text": "b"\n', "line 3: not JSON"),
    "deep.jsonl": (b"[" * 200_000, "line 1: not JSON"),
    "digits.jsonl": (b'{"text": ' + b"1" * 5000 + b"}", "line 1: not JSON"),
    "list.jsonl": (b'["text"]', 'line 1: expected an object with "text", got'),
    "other.jsonl": (b'{"text": "a"}\n{"txt": "a"}', 'line 2: expected an object with "text", got'),
    "number.jsonl": (b'{"text": 3}', 'line 1: expected "text" to be a string, got int'),
    "null.jsonl": (b'{"text": null}', "got NoneType"),
    "half.jsonl": (b'{"text": "\\ud83d"}', "line 1: .* half of a surrogate pair"),
    "not.txt.gz": (b"plain text", "cannot read .*Not a gzipped file"),
    "cut.txt.gz": (gzip.compress(b"text\n" * 999)[:-9], "cannot read"),
    "not.jsonl.xz": (b"plain text", "cannot read .*not supported"),
    "not.parquet": (b"PAR1 and then nothing of the kind", "cannot read .*not.parquet"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named_and_leave_nothing(tmp_path: Path, name: str) -> None:
    content, said = BAD_FILES[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    folder = tmp_path / "prompts"
    folder.mkdir()
    with pytest.raises(UsageError, match=said) as caught:
        prepare(str(path), TOKENIZER, None, 4, folder)
    assert name in str(caught.value)
    assert str(caught.value).count("\n") <= 1
    assert list(folder.iterdir()) == []


def test_a_ten_megabyte_line_costs_its_first_page(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("the cat sat on the mat " * 450_000)
    table = prepare(str(path), TOKENIZER, None, 12, tmp_path)
    assert [table[0]] == [in_full(TOKENIZER, "the cat sat on the mat " * 9, None, 12)]
