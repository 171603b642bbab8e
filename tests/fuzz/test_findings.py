"""What fuzzing found, one case for each fault that was repaired."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from small_corpus import begin, fill
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from cdgen.checkpoints.text_prefix import prefix_of
from cdgen.checkpoints.tokenizer_file import read_tokenizer
from cdgen.corpus.documents import open_source
from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.model_names import ModelName, ModelNames
from cdgen.corpus.prompts import open_table
from cdgen.corpus.reader import rows_so_far
from cdgen.corpus.status import status
from cdgen.corpus.verify import verify
from cdgen.errors import ModelError, PlanMismatch, StorageError, UsageError
from cdgen.experiment.layout import Layout
from cdgen.experiment.load import load_run_recipe
from cdgen.storage import read_record, write_record

Edit = Callable[[dict[str, Any]], object]


def edited(path: Path, edit: Edit) -> None:
    """Change a record, and give it the checksum of what it holds now."""
    record = read_record(path)
    record.pop("checksum", None)
    edit(record)
    write_record(path, record)


@pytest.fixture
def begun(tmp_path: Path) -> CorpusFolder:
    folder = begin(tmp_path / "out", ModelNames(good=ModelName(name="good")))
    fill(folder)
    return folder


def line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_an_entry_of_a_range_without_a_size(begun: CorpusFolder) -> None:
    edited(begun.range_entry_path(1), lambda entry: entry.update(bytes=None))
    (problem,) = verify(begun.out)
    assert "range-0000001.json is not a range's entry of this cdgen: bytes: Input" in problem
    assert status(begun.out).ranges_done == begun.plan.num_ranges - 1


def test_counts_without_a_reason(begun: CorpusFolder) -> None:
    edited(begun.range_entry_path(1), lambda entry: entry["finish_reasons"].pop("eos"))
    (problem,) = verify(begun.out)
    assert "finish_reasons: expected eos, length, quarantined, got" in problem
    assert status(begun.out).ranges_done == begun.plan.num_ranges - 1


def test_a_record_of_prompts_without_a_hash(begun: CorpusFolder) -> None:
    edited(begun.prompts / "prompts.json", lambda record: record.update(tokens_sha256=None))
    with pytest.raises(StorageError) as caught:
        open_table(begun.prompts)
    assert "is not a record of prompts of this cdgen: tokens_sha256" in line(caught.value)


def test_a_record_of_more_prompts_than_there_are(begun: CorpusFolder) -> None:
    edited(begun.prompts / "prompts.json", lambda record: record.update(count=10**15))
    with pytest.raises(StorageError, match=r"tokens\.bin is damaged: 80 bytes, expected 8"):
        open_table(begun.prompts)


@pytest.mark.parametrize(
    "edit",
    [
        lambda fields: fields["files"][0].update(bytes=None),
        lambda fields: fields.pop("totals"),
        lambda fields: fields.pop("plan"),
        lambda fields: fields.update(plan=[1]),
        lambda fields: fields["plan"].update(range_size="x"),
    ],
    ids=["a size", "no totals", "no plan", "a list", "a text"],
)
def test_a_manifest_that_is_none(begun: CorpusFolder, edit: Edit) -> None:
    finalize(begun.out)
    edited(begun.manifest_file, edit)
    begun.plan_file.unlink()
    for read in (status, lambda out: list(rows_so_far(out, ["text"]))):
        with pytest.raises((StorageError, PlanMismatch)) as caught:
            read(begun.out)
        assert "manifest.json is not a" in line(caught.value)
    assert len(verify(begun.out)) == 1


def test_names_of_models_that_are_none(begun: CorpusFolder) -> None:
    edited(begun.names_file, lambda fields: fields.update(good=7))
    with pytest.raises(StorageError) as caught:
        status(begun.out)
    assert "models.json is not a record of models of this cdgen: good" in line(caught.value)


def test_a_plan_of_more_ranges_than_can_be_looked_for(begun: CorpusFolder) -> None:
    """`verify` and `status` would try every one of them."""
    huge = {"sequences_per_prompt": 10**17, "num_sequences": 10**18, "range_size": 1}
    edited(begun.plan_file, lambda fields: fields.update(huge))
    with pytest.raises(StorageError) as caught:
        status(begun.out)
    assert "expected at most 16777216 ranges" in line(caught.value)
    assert len(verify(begun.out)) == 1


def test_a_manifest_of_more_files_than_are_listed(begun: CorpusFolder) -> None:
    finalize(begun.out)
    begun.plan_file.unlink()
    huge = {"sequences_per_prompt": 2**20, "num_sequences": 10 * 2**20, "rows_per_file": 1}
    edited(begun.manifest_file, lambda fields: fields["plan"].update(huge))
    problems = verify(begun.out)
    assert any("expected 1310720 files, lists 3" in problem for problem in problems)


def test_a_nested_text_within_null(tmp_path: Path) -> None:
    """In Parquet and in datasets, whose rows all have the column."""
    path = tmp_path / "rows.parquet"
    rows: list[dict[str, Any]] = [{"meta": {"text": "a"}}, {"meta": None}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    for place in (path, tmp_path / "saved"):
        with pytest.raises(UsageError) as caught:
            list(open_source(str(place), "meta.text").documents())
        assert 'row 2: expected "meta.text", but a field around it is null' in line(caught.value)


def test_records_are_read_as_json_whatever_they_hold(begun: CorpusFolder) -> None:
    for content in ("[]", "7", '{"checksum": 1}', json.dumps({"a": "\ud800"})):
        begun.plan_file.write_text(content)
        with pytest.raises(StorageError, match="is damaged"):
            CorpusFolder(begun.out).plan  # noqa: B018 - it raises


def test_a_token_id_that_a_tokenizer_would_count_up_to(tmp_path: Path) -> None:
    """Writing it out again, for its hash, took 8 GB."""
    content = json.loads(Tokenizer(WordLevel({"a": 0}, unk_token="a")).to_str())
    content["model"]["vocab"]["b"] = 2**31
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        read_tokenizer(path)
    assert f"expected token ids up to 16777215, got {2**31}" in line(caught.value)


def test_a_tokenizer_that_pads_every_text_to_gigabytes(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    tokenizer.enable_padding(length=2**31)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    assert prefix_of(read_tokenizer(path)) == []


@pytest.mark.parametrize("text", ['"\\ud800"', '"a\\0b"'])
def test_a_base_recipe_at_a_path_that_no_file_has(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"base: {text}\n")
    with pytest.raises(UsageError) as caught:
        load_run_recipe(path, tmp_path, Layout(tmp_path / "out"))
    assert "which no file or name can hold" in line(caught.value)
