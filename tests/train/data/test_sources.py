"""Documents from every kind of source, and what is said of those that cannot be read."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdgen.errors import UsageError
from cdgen.train.config import Source
from cdgen.train.data.documents import Document, split_lines
from cdgen.train.data.sources import read_documents, source_sha256

TEXTS = ["One.\n\nTwo.", "Three."]


def source(path: str, split: str = "rows", **fields: Any) -> Source:
    return Source(name="source", path=Path(path), licence="none", split=split, **fields)  # type: ignore[arg-type]


def write(folder: Path, name: str, content: str) -> Source:
    packers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress}
    path = folder / name
    path.write_bytes(packers.get(path.suffix, bytes)(content.encode()))
    return source(name)


@pytest.mark.parametrize("path", ["a.txt", "a.txt.gz", "a.txt.xz", "childes.train", "A.DEV"])
def test_text_files_are_split_at_lines_or_blank_lines(tmp_path: Path, path: str) -> None:
    write(tmp_path, path, "One.\n\nTwo.\nThree.\n")
    assert read_documents(source(path), tmp_path) == [
        Document("One."),
        Document("Two."),
        Document("Three."),
    ]
    assert read_documents(source(path, "blank_lines"), tmp_path) == [
        Document("One."),
        Document("Two.\nThree.", complete=False),  # nothing says that it ends there
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.xz", "a.txt.jsonl", "a.parquet"])
def test_a_row_is_a_complete_text(tmp_path: Path, name: str) -> None:
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": TEXTS}), tmp_path / name)
    else:
        write(tmp_path, name, "\n".join(json.dumps({"text": text}) for text in TEXTS))
    assert read_documents(source(name), tmp_path) == [Document(text) for text in TEXTS]
    assert read_documents(source(name, "blank_lines"), tmp_path) == [
        Document("One."),
        Document("Two."),
        Document("Three."),
    ]


def test_folders_and_datasets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    write(tmp_path / "d", "b.txt", "Two.")
    write(tmp_path / "d", "a.txt", "One.")
    assert [d.text for d in read_documents(source("d"), tmp_path)] == ["One.", "Two."]
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows)
    assert read_documents(source("some/name"), tmp_path) == [Document(text) for text in TEXTS]
    before = source_sha256(source("some/name"), tmp_path)
    rows = datasets.Dataset.from_dict({"text": TEXTS[::-1]})
    assert source_sha256(source("some/name"), tmp_path) != before


def test_another_column_and_a_saved_dataset(tmp_path: Path) -> None:
    rows = [{"meta": {"body": text}} for text in TEXTS]
    write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for path in ("a.jsonl", "saved"):
        found = read_documents(source(path, text_column="meta.body"), tmp_path)
        assert found == [Document(text) for text in TEXTS]
    with pytest.raises(UsageError, match=r"no column `text`, only \['meta'\]"):
        read_documents(source("saved"), tmp_path)


def test_a_folder_is_read_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "d/deep").mkdir(parents=True)
    write(tmp_path / "d", "a.txt", "One.")
    write(tmp_path / "d", "README.md", "about")
    write(tmp_path / "d/deep", "b.txt", "Two.")
    assert [d.text for d in read_documents(source("d"), tmp_path)] == ["One.", "Two."]
    write(tmp_path / "d/deep", "c.csv", "a,b")
    with pytest.raises(UsageError, match=r"source source: .*d: cannot read deep/c\.csv"):
        read_documents(source("d"), tmp_path)


def test_books_of_a_parquet_file(tmp_path: Path) -> None:
    books = {"author": ["B. P."], "title": ["A"], "text": ["# I\none\n# II\ntwo"]}
    pq.write_table(pa.table(books), tmp_path / "b.parquet")
    found = read_documents(source("b.parquet", "chapters"), tmp_path)
    assert found == [Document("one", "B. P.: A"), Document("two", "B. P.: A")]


def test_a_source_never_comes_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` would take a folder for the dataset of that name."""
    here, data = tmp_path / "here", tmp_path / "data"
    (here / "books").mkdir(parents=True)
    data.mkdir()
    write(here / "books", "wrong.txt", "One.")
    monkeypatch.chdir(here)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it was asked"))
    for read in (read_documents, source_sha256):
        with pytest.raises(UsageError, match="books lies in the current folder, but not in --data"):
            read(source("books"), data)
    assert read_documents(source("books"), here) == [Document("One.")]


def test_rows_of_a_finalized_corpus_are_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = zip(["One.", "Two", "Thr"], ["eos", "length", "quarantined"], strict=True)
    rows = [{"text": text, "finish_reason": reason} for text, reason in reasons]
    monkeypatch.setattr("cdgen.train.data.sources.corpus_rows", lambda out, columns: iter(rows))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/manifest.json").write_text("{}")
    assert read_documents(source("corpus"), tmp_path) == [
        Document("One."),
        Document("Two", complete=False),
    ]
    assert len(source_sha256(source("corpus"), tmp_path)) == 64


def test_a_book_becomes_chapters_of_whole_paragraphs(tmp_path: Path) -> None:
    text = "## I\n\nThere were\nfour _little_ rabbits.\n\n* * *\n\nThey ran.\n\n##  II\n\nThe end."
    books = [{"author": "B. P.", "title": title, "text": text} for title in ("A", "B")]
    write(tmp_path, "b.jsonl.xz", "\n".join(map(json.dumps, books)) + "\n")
    wanted = source("b.jsonl.xz", "chapters", clean="paragraphs", titles=("B",))
    assert read_documents(wanted, tmp_path) == [
        Document("There were four little rabbits.\nThey ran.", "B. P.: B"),
        Document("The end.", "B. P.: B"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.txt", None, {}, "source source: cannot read .*is --data right"),
        ("a.csv", b"a,b", {}, "unknown kind of file; expected .txt"),
        ("a.txt.xz", b"not xz", {}, "cannot read"),
        ("a.txt.xz", lzma.compress(b"text" * 999)[:-20], {}, "cannot read"),
        ("a.txt", b"\xff\xfe", {}, "not UTF-8"),
        ("a.txt", b"\n \n", {}, "holds no document"),
        ("a.txt", b"* * *", {"clean": "lines"}, "holds no document"),
        ("a.jsonl", b"not json\n", {}, "line 1: not JSON"),
        ("a.jsonl", b'{"title": "A"}\n', {}, 'object with "text"'),
        ("a.jsonl", b'{"text": "A"}\n', {"split": "chapters"}, 'a string under "author"'),
        ("a.txt", b"text", {"split": "chapters"}, "reads rows with author, title and text"),
        ("a.jsonl", b"", {"split": "chapters", "titles": ["A"]}, r"no book is called \['A'\]"),
    ],
)
def test_bad_files_are_refused(
    tmp_path: Path, name: str, content: bytes | None, fields: dict[str, Any], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_documents(source(name, **fields), tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(UsageError, match=r"no usable file in this folder; expected \.txt"):
        read_documents(source("d"), tmp_path)


@pytest.mark.parametrize(
    ("file", "split", "words", "sizes"),
    [
        ("babylm_simple_wiki", "titles", 0, (40, 90)),
        ("babylm_gutenberg", "length", 300, (300, 330)),
        ("babylm_open_subtitles", "length", 300, (300, 330)),
        ("babylm_switchboard", "length", 300, (300, 330)),
        ("babylm_childes", "length", 300, (300, 330)),
        ("babylm_wikipedia_topics", "length", 300, (300, 330)),
        ("tinystories_sample_cased", "endoftext", 0, (130, 180)),
        ("aochildes_eng_na_21corpora", "rows", 0, (3, 6)),
    ],
)
def test_real_text_splits_into_documents_of_plausible_length(
    data_folder: Path, tmp_path: Path, file: str, split: str, words: int, sizes: tuple[int, int]
) -> None:
    """In the first megabyte, the median document has a plausible length, and no word except marks
    is lost."""
    with lzma.open(data_folder / f"text/{file}.txt.xz", "rt", encoding="utf-8") as stream:
        text = stream.read(1_000_000)
    write(tmp_path, "a.txt", text)
    documents = read_documents(source("a.txt", split, words=words), tmp_path)
    found = sorted(len(document.text.split()) for document in documents)
    assert sizes[0] <= found[len(found) // 2] <= sizes[1]
    lost = len(text.split()) - sum(found)
    marks = 3 * text.count("= = = ") + text.count("<|endoftext|>")
    assert lost == (marks if split in ("titles", "endoftext") else 0)
    cut_off = [document for document in documents if not document.complete]
    assert len(cut_off) == {"rows": 0, "length": len(documents)}.get(split, 1)
    if split == "length":
        assert all(words <= size <= 2 * words for size in found[1:])


def test_real_titles_stand_above_their_articles(data_folder: Path) -> None:
    with lzma.open(data_folder / "text/babylm_simple_wiki.txt.xz", "rt", encoding="utf-8") as file:
        documents = list(split_lines("titles", islice(map(str.rstrip, file), 20_000), False))
    alone = [text for text, _ in documents if "\n" not in text]
    assert len(alone) < 0.02 * len(documents)
