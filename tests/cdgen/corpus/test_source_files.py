"""Which files of a folder are documents: all of them, or an error that names the others."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdgen.corpus.documents import open_source
from cdgen.errors import UsageError


def test_a_download_of_the_hub_is_read_below_its_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, texts in enumerate((["one", "two"], ["three"])):
        path = tmp_path / f"data/train-{number:05}-of-00002.parquet"
        pq.write_table(pa.table({"text": texts}), path)
    for name in ("README.md", ".gitattributes", "LICENSE.txt", "dataset_infos.json"):
        (tmp_path / name).write_text("about the data")
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    (tmp_path / ".cache/huggingface/notes.txt").write_text("not a document")
    source = open_source(str(tmp_path))
    assert list(source.texts()) == ["one", "two", "three"]
    assert source.notes[0] == (
        "2 files; not read, as documentation: .cache/, .gitattributes, LICENSE.txt, README.md,"
        " dataset_infos.json"
    )


@pytest.mark.parametrize("name", ["notes.pdf", "deep/table.csv", "a.txt.bz2", "words"])
def test_a_folder_is_read_as_a_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "deep").mkdir()
    (tmp_path / name).write_text("what is this?")
    with pytest.raises(UsageError, match=f"cannot read {name}; expected .txt.* move them out"):
        list(open_source(str(tmp_path)).texts())


def test_data_named_like_documentation_are_data(tmp_path: Path) -> None:
    (tmp_path / "authors.jsonl").write_text(json.dumps({"text": "one"}))
    (tmp_path / "notice.train").write_text("two")
    assert list(open_source(str(tmp_path)).texts()) == ["one", "two"]


def test_a_link_to_a_folder_is_followed_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("one")
    (data / "loop").symlink_to(data)
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds/linked").symlink_to(data)
    assert list(open_source(str(tmp_path / "seeds")).texts()) == ["one"]
