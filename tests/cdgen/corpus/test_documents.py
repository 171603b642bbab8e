"""Documents: the same texts from every kind of source, and clear errors for bad ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_corpus import begin, fill

from cdgen.corpus import text_files
from cdgen.corpus.documents import open_source
from cdgen.corpus.finalize import finalize
from cdgen.corpus.reader import corpus_rows
from cdgen.errors import UsageError

DOCUMENTS = ["first one", "zweites Stück", "третий", "  indented", "last"]
WRITERS: dict[str, Callable[[Path], object]] = {
    "p.txt": lambda path: path.write_text("\n".join([*DOCUMENTS[:2], "", " \t", *DOCUMENTS[2:]])),
    "windows.txt": lambda path: path.write_bytes(
        b"\xef\xbb\xbf" + "\r\n".join(DOCUMENTS).encode() + b"\r\n"
    ),
    "p.txt.gz": lambda path: path.write_bytes(gzip.compress("\n".join(DOCUMENTS).encode())),
    "p.txt.xz": lambda path: path.write_bytes(lzma.compress("\n".join(DOCUMENTS).encode())),
    "p.jsonl": lambda path: path.write_text(as_json(DOCUMENTS)),
    "p.jsonl.gz": lambda path: path.write_bytes(gzip.compress(as_json(DOCUMENTS).encode())),
    "p.jsonl.xz": lambda path: path.write_bytes(lzma.compress(as_json(DOCUMENTS).encode())),
    "p.parquet": lambda path: pq.write_table(
        pa.table({"id": range(5), "text": DOCUMENTS}), path, row_group_size=2
    ),
    "p.txt.zst": lambda path: path.write_bytes(zstd("\n".join(DOCUMENTS).encode())),
    "childes.train": lambda path: path.write_text("\n".join(DOCUMENTS)),
    "p.dev": lambda path: path.write_text("\n".join(DOCUMENTS)),
    "p.test.gz": lambda path: path.write_bytes(gzip.compress("\n".join(DOCUMENTS).encode())),
    "P.TXT.GZ": lambda path: path.write_bytes(gzip.compress("\n".join(DOCUMENTS).encode())),
    "P.JSONL": lambda path: path.write_text("\ufeff" + as_json(DOCUMENTS)),
    "p.jsonl.zst": lambda path: path.write_bytes(zstd(as_json(DOCUMENTS).encode())),
    "p.json.gz": lambda path: path.write_bytes(gzip.compress(as_json(DOCUMENTS).encode())),
    "array.json": lambda path: path.write_text(
        "\ufeff \n" + json.dumps([{"text": text} for text in DOCUMENTS], indent=2)
    ),
    "p.parquet.xz": lambda path: path.write_bytes(lzma.compress(as_parquet(DOCUMENTS))),
    "P.Parquet": lambda path: path.write_bytes(as_parquet(DOCUMENTS)),
    "saved": lambda path: datasets.Dataset.from_dict({"text": DOCUMENTS}).save_to_disk(path),
    "splits": lambda path: datasets.DatasetDict(
        {
            "test": datasets.Dataset.from_dict({"text": ["a test"]}),
            "train": datasets.Dataset.from_dict({"text": DOCUMENTS}),
        }
    ).save_to_disk(path),
    "large.parquet": lambda path: pq.write_table(
        pa.table({"text": pa.array(DOCUMENTS, pa.large_string())}), path
    ),
}


def as_json(texts: list[str]) -> str:
    return "\n\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)) + "\n"


def as_parquet(texts: list[str]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), buffer)
    return buffer.getvalue()


def zstd(content: bytes) -> bytes:
    """Compress in two frames, as pzstd and `cat a.zst b.zst` do."""
    half = len(content) // 2
    return b"".join(
        pa.compress(part, "zstd", asbytes=True) for part in (content[:half], content[half:])
    )


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert list(open_source(str(tmp_path / name)).texts()) == DOCUMENTS


def test_a_folder_is_its_files_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(as_json(["three", "four"]))
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "notes.md").write_text("not a prompt")
    (tmp_path / "sub.txt").mkdir()
    assert list(open_source(str(tmp_path)).texts()) == ["one", "two", "three", "four"]


def test_a_corpus_of_cdgen_is_read_as_its_rows(tmp_path: Path) -> None:
    folder = begin(tmp_path / "corpus", format="jsonl")
    fill(folder)
    finalize(folder.out)
    texts = [row["text"] for row in corpus_rows(folder.out, ["text"])]
    assert list(open_source(str(folder.out)).texts()) == texts


# ---- what divides documents --------------------------------------------------------------------

STORIES = "Once.\n\nThe end.\n<|endoftext|>\n\n  Twice. \n<|endoftext|>\n<|endoftext|>\nThird"


def test_lines_that_are_marks_divide_the_documents_of_a_text_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text(STORIES)
    (tmp_path / "b.txt").write_text("a line with <|endoftext|> in it\n\nanother\n")
    source = open_source(str(tmp_path))
    found = [(part.name, row.number, row.text) for part, row in source.documents()]
    assert found == [
        ("a.txt", 1, "Once.\n\nThe end."),
        ("a.txt", 6, "Twice."),
        ("a.txt", 9, "Third"),
        ("b.txt", 1, "a line with <|endoftext|> in it"),
        ("b.txt", 3, "another"),
    ]
    source.say("5 documents")
    assert capsys.readouterr().err == (
        f"{tmp_path}: 5 documents; 3 lines <|endoftext|> separate the documents of a.txt;"
        " blank texts left out: 2; each line is a document\n"
    )


def test_a_row_that_is_only_a_mark_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(as_json(["one", "<|endoftext|>", " </s>\n", "a </s>"]))
    source = open_source(str(tmp_path / "a.jsonl"))
    assert list(source.texts()) == ["one", "a </s>"]
    assert source.left_out == {"lone end-of-text marks": 2}


def test_a_file_called_state_makes_no_saved_dataset(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"text": "Texas"}')
    assert list(open_source(str(tmp_path)).texts()) == ["Texas"]


@pytest.mark.parametrize("mark", ["</s>", "<eos>", "<|end_of_text|>"])
def test_marks_of_other_tokenizers(tmp_path: Path, mark: str) -> None:
    (tmp_path / "a.train").write_text(f"One.\nMore.\n{mark}\nTwo.\n")
    assert list(open_source(str(tmp_path / "a.train")).texts()) == ["One.\nMore.", "Two."]


def test_a_document_between_marks_that_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1 << 10)
    (tmp_path / "a.txt").write_text("<|endoftext|>\n" + "a line\n" * 400)
    with pytest.raises(UsageError, match=r"a\.txt, line 172: a document longer"):
        list(open_source(str(tmp_path / "a.txt")).texts())


def test_a_source_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    assert open_source(str(path)).sha256() == hashlib.sha256(b"one\ntwo\n").hexdigest()
    folder_hash = open_source(str(tmp_path)).sha256()
    path.rename(tmp_path / "z.txt")
    assert open_source(str(tmp_path)).sha256() == folder_hash
    (tmp_path / "z.txt").write_text("one\ntwo")
    assert open_source(str(tmp_path)).sha256() != folder_hash


def test_a_datasets_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = datasets.Dataset.from_dict({"text": DOCUMENTS, "n": [1, 2, 3, 4, 5]})
    calls = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        calls.append((name, split))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    assert list(open_source("some/corpus").texts()) == DOCUMENTS
    assert calls == [("some/corpus", "train")]
    digest = open_source("some/corpus").sha256()
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "corpus").mkdir()
    (tmp_path / "some" / "corpus" / "a.txt").write_text("a local path wins")
    assert list(open_source("some/corpus").texts()) == ["a local path wins"]
    assert open_source("some/corpus").sha256() != digest
    table = table.select([0, 2, 1, 3, 4])
    assert open_source("another").sha256() != digest
    table = table.remove_columns("text")
    with pytest.raises(UsageError, match=r"no column `text`, only \['n'\]"):
        list(open_source("another").texts())


def test_a_dataset_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, split: str) -> None:
        raise ConnectionError("Couldn't reach the Hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UsageError) as caught:
        list(open_source("no/such").texts())
    assert "no such file or folder here" in str(caught.value)
    assert str(caught.value).endswith("Couldn't reach the Hub")


# ---- bad sources -------------------------------------------------------------------------------


def test_a_folder_without_prompts(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(UsageError, match="no usable file in this folder"):
        list(open_source(str(tmp_path)).texts())


@pytest.mark.parametrize("source", ["./prompts", "/no/such/prompts", "~/prompts", "a/b/c"])
def test_what_cannot_be_a_dataset_is_a_missing_file(source: str) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        list(open_source(source).texts())


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(UsageError, match="got an empty name"):
        list(open_source("").texts())


def test_a_saved_dataset_that_is_damaged(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": DOCUMENTS}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved/state.json").write_text("{}")
    with pytest.raises(UsageError, match=r"^mine: `datasets` cannot load it: "):
        open_source(str(tmp_path / "saved"), label="mine")


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("one\n")
    source = open_source(str(path))
    path.unlink()
    with pytest.raises(UsageError, match=rf"cannot read {path}: No such file or directory\."):
        source.sha256()


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "p.txt"
    path.write_bytes(b"short\n" + b"x" * (1 << 20))
    assert [len(text) for text in open_source(str(path)).texts()] == [5, 1 << 20]
    path.write_bytes(b"short\n" + b"x" * (1 << 20) + b"x\nnext\n")
    with pytest.raises(UsageError, match=r"p\.txt, line 2: longer than 1 MB"):
        list(open_source(str(path)).texts())
