"""Documents: the same texts from every kind of source, and clear errors for bad ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdgen.corpus import documents
from cdgen.corpus.documents import hash_source, read_documents
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
    "large.parquet": lambda path: pq.write_table(
        pa.table({"text": pa.array(DOCUMENTS, pa.large_string())}), path
    ),
}


def as_json(texts: list[str]) -> str:
    return "\n\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)) + "\n"


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert list(read_documents(str(tmp_path / name))) == DOCUMENTS


def test_a_folder_is_its_files_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(as_json(["three", "four"]))
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "notes.md").write_text("not a prompt")
    (tmp_path / "sub.txt").mkdir()
    assert list(read_documents(str(tmp_path))) == ["one", "two", "three", "four"]


def test_a_source_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    assert hash_source(str(path)) == hashlib.sha256(b"one\ntwo\n").hexdigest()
    folder_hash = hash_source(str(tmp_path))
    path.rename(tmp_path / "z.txt")
    assert hash_source(str(tmp_path)) == folder_hash
    (tmp_path / "z.txt").write_text("one\ntwo")
    assert hash_source(str(tmp_path)) != folder_hash


def test_a_datasets_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"text": DOCUMENTS, "n": [1, 2, 3, 4, 5]})
    calls = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        calls.append((name, split))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    assert list(read_documents("some/corpus")) == DOCUMENTS
    assert calls == [("some/corpus", "train")]
    digest = hash_source("some/corpus")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "corpus").mkdir()
    (tmp_path / "some" / "corpus" / "a.txt").write_text("a local path wins")
    assert list(read_documents("some/corpus")) == ["a local path wins"]
    assert hash_source("some/corpus") != digest
    table = table.select([0, 2, 1, 3, 4])
    assert hash_source("another") != digest
    table = table.remove_columns("text")
    with pytest.raises(UsageError, match=r"no column `text`, only \['n'\]"):
        list(read_documents("another"))


def test_a_dataset_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str, split: str) -> None:
        raise ConnectionError("Couldn't reach the Hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UsageError) as caught:
        list(read_documents("no/such"))
    assert "no such file or folder here" in str(caught.value)
    assert str(caught.value).endswith("Couldn't reach the Hub")


# ---- bad sources -------------------------------------------------------------------------------


def bad_parquet(path: Path, array: pa.Array, column: str = "text") -> str:
    pq.write_table(pa.table({column: array}), path)
    with pytest.raises(UsageError) as caught:
        list(read_documents(str(path)))
    return str(caught.value)


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    assert "no column `text`, only ['body']" in bad_parquet(path, pa.array(["a"]), "body")
    assert "p.parquet, row 2: expected" in bad_parquet(path, pa.array(["a", None]))
    assert "row 1: expected" in bad_parquet(path, pa.array([7]))
    not_utf8 = pa.array([b"ok", b"caf\xe9"]).view(pa.string())
    assert "after row 1" in bad_parquet(path, not_utf8) or "row 2" in bad_parquet(path, not_utf8)


def test_a_folder_without_prompts(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(UsageError, match="no usable file in this folder"):
        list(read_documents(str(tmp_path)))


@pytest.mark.parametrize("source", ["./prompts", "/no/such/prompts", "~/prompts", "a/b/c"])
def test_what_cannot_be_a_dataset_is_a_missing_file(source: str) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        list(read_documents(source))


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(UsageError, match="got an empty name"):
        list(read_documents(""))


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "p.txt"
    path.write_bytes(b"short\n" + b"x" * (1 << 20))
    assert [len(text) for text in read_documents(str(path))] == [5, 1 << 20]
    path.write_bytes(b"short\n" + b"x" * (1 << 20) + b"x\nnext\n")
    with pytest.raises(UsageError, match=r"p\.txt, line 2: longer than 1 MB"):
        list(read_documents(str(path)))
