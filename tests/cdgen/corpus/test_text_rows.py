"""The rows of one file or dataset: columns, nested fields, and what is said of bad values."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdgen.corpus.documents import open_source
from cdgen.errors import UsageError

DOCUMENTS = ["first one", "zweites Stück", "третий", "  indented", "last"]
NESTED = [{"body": {"en": text}, "n": n} for n, text in enumerate(DOCUMENTS)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_another_column_or_a_nested_field(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"p.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in NESTED))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    else:
        datasets.Dataset.from_list(NESTED).save_to_disk(path)
    assert list(open_source(str(path), "body.en").texts()) == DOCUMENTS
    for column in ("text", "body.de", "n.en"):
        with pytest.raises(UsageError, match=rf'no column `{column}`|object with "{column}"'):
            list(open_source(str(path), column).texts())
    with pytest.raises(UsageError, match='"n" to be a string, got int'):
        list(open_source(str(path), "n").texts())


def test_a_column_whose_name_has_a_dot(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a.b": ["whole"], "a": [{"b": "nested"}]}), tmp_path / "p.parquet")
    assert list(open_source(str(tmp_path / "p.parquet"), "a.b").texts()) == ["whole"]
    (tmp_path / "p.jsonl").write_text('{"a.b": "whole", "a": {"b": "nested"}}\n')
    assert list(open_source(str(tmp_path / "p.jsonl"), "a.b").texts()) == ["whole"]


def test_memory_does_not_grow_with_an_array(tmp_path: Path) -> None:
    """An array of 12 MB, on one line, is read in parts."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "w" * 12_000}] * 1000))
    tracemalloc.start()
    assert sum(len(text) for text in open_source(str(path)).texts()) == 12_000_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 6_000_000


def test_memory_does_not_grow_with_a_row_group(tmp_path: Path) -> None:
    """A file of 32 MB is one row group, as some writers make them."""
    texts = [f"{n:08}" * 1000 for n in range(4000)]
    pq.write_table(
        pa.table({"text": texts}), tmp_path / "p.parquet", compression="none", use_dictionary=False
    )
    before = pa.total_allocated_bytes()
    peaks = [pa.total_allocated_bytes() for _ in open_source(str(tmp_path / "p.parquet")).texts()]
    assert len(peaks) == 4000 and max(peaks) - before < 16_000_000


def bad_parquet(path: Path, array: pa.Array, column: str = "text") -> str:
    pq.write_table(pa.table({column: array}), path)
    with pytest.raises(UsageError) as caught:
        list(open_source(str(path)).texts())
    return str(caught.value)


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    assert "no column `text`, only ['body']" in bad_parquet(path, pa.array(["a"]), "body")
    assert "p.parquet, row 2: expected" in bad_parquet(path, pa.array(["a", None]))
    assert "row 1: expected" in bad_parquet(path, pa.array([7]))
    not_utf8 = pa.array([b"ok", b"caf\xe9"]).view(pa.string())
    assert "after row 1" in bad_parquet(path, not_utf8) or "row 2" in bad_parquet(path, not_utf8)
