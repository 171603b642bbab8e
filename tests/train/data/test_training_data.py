"""From a recipe to token files: reuse, what makes them anew, tokenizers, prompts."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_run import RECIPE, generate_demo_corpus, write_toy

from cdgen.errors import UsageError
from cdgen.train.config import Recipe
from cdgen.train.data import training_data as module
from cdgen.train.data.holdout import split_documents
from cdgen.train.data.packing import read_and_taught
from cdgen.train.data.sources import corpus_texts, read_documents
from cdgen.train.data.tokenizer import for_transformers, special_ids
from cdgen.train.data.training_data import TrainingData, build_training_data

(SOURCE,) = RECIPE["sources"]  # type: ignore[misc]
WITH_PROMPTS = {**SOURCE, "prompts": 0.2}  # type: ignore[dict-item]


def recipe(**fields: Any) -> Recipe:
    return Recipe.model_validate({**RECIPE, "sources": [WITH_PROMPTS], **fields})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    write_toy(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record one entry per call of `encode`."""
    calls: list[int] = []
    encode = module.encode
    monkeypatch.setattr(module, "encode", lambda *args: calls.append(len(args[2])) or encode(*args))
    return calls


def same(one: TrainingData, other: TrainingData) -> bool:
    return (
        all(np.array_equal(a, b) for a, b in zip(one.train, other.train, strict=True))
        and one.tokenizer.to_str() == other.tokenizer.to_str()
        and one.texts == other.texts
        and one.epoch_words == other.epoch_words
        and list(one.validation) == list(other.validation)
        and all(np.array_equal(one.validation[n], other.validation[n]) for n in one.validation)
    )


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_a_second_run_reads_what_the_first_encoded(
    data: Path, tmp_path: Path, encodings: list[int], kind: str
) -> None:
    in_memory = build_training_data(recipe(tokenizer=kind), data)
    first = build_training_data(recipe(tokenizer=kind), data, tmp_path / "run")
    before = len(encodings)
    second = build_training_data(recipe(tokenizer=kind), data, tmp_path / "run")
    assert len(encodings) == before == 4
    assert same(in_memory, first) and same(first, second)
    assert isinstance(second.train[0], np.memmap)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"block_size": 8},
        {"vocab_size": 299},
        {"tokenizer": "sentencepiece"},
        {"sources": [{**WITH_PROMPTS, "repeat": 2}]},
        {"sources": [{**WITH_PROMPTS, "clean": "lines"}]},
        {"sources": [{**WITH_PROMPTS, "split": "blank_lines"}]},
        {"sources": [{**WITH_PROMPTS, "split": "length", "words": 9}]},
        {"sources": [{**WITH_PROMPTS, "validation": 0.3}]},
        {"sources": [{**WITH_PROMPTS, "prompts": 0.3}]},
        {"sources": [WITH_PROMPTS, {**WITH_PROMPTS, "name": "again"}]},
    ],
    ids=str,
)
def test_another_recipe_is_encoded_anew(
    data: Path, tmp_path: Path, encodings: list[int], change: dict[str, Any]
) -> None:
    build_training_data(recipe(), data, tmp_path / "run")
    before = len(encodings)
    try:
        build_training_data(recipe(**change), data, tmp_path / "run")
    except UsageError as error:  # one document: no validation
        assert "split" in str(change) and "falls to" in str(error)
    else:
        assert len(encodings) > before


def test_other_text_is_encoded_anew_another_licence_or_training_is_not(
    data: Path, tmp_path: Path, encodings: list[int]
) -> None:
    build_training_data(recipe(), data, tmp_path / "run")
    before = len(encodings)
    build_training_data(recipe(bad_gap=0.9), data, tmp_path / "run")
    licensed = {**WITH_PROMPTS, "licence": "some"}
    build_training_data(recipe(sources=[licensed]), data, tmp_path / "run")
    assert len(encodings) == before
    file = data / "s.txt.xz"
    file.write_bytes(lzma.compress(lzma.decompress(file.read_bytes()) + b"More.\n<|endoftext|>"))
    build_training_data(recipe(), data, tmp_path / "run")
    assert len(encodings) > before


def test_prompts_and_words_are_those_of_the_parts(data: Path, tmp_path: Path) -> None:
    made = build_training_data(recipe(), data, tmp_path / "run")
    (source,) = recipe().sources
    parts = split_documents(read_documents(source, data), source, 0)
    rows = [json.loads(line) for line in (tmp_path / "run/prompts.jsonl").open(encoding="utf-8")]
    assert [row["text"] for row in rows] == [document.text for document in parts.prompts]
    assert made.texts["toys"].words == sum(len(d.text.split()) for d in parts.train)
    (tmp_path / "run/prompts.jsonl").unlink()
    build_training_data(recipe(), data, tmp_path / "run")
    assert len((tmp_path / "run/prompts.jsonl").read_text().splitlines()) == len(rows)


def test_special_tokens_that_are_spelled_out_are_text_and_counted(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = data / "s.txt.xz"
    more = b"\nAn odd </s> <s> </s> story.\n<|endoftext|>"
    file.write_bytes(lzma.compress(lzma.decompress(file.read_bytes()) + more))
    made = build_training_data(recipe(), data)
    assert (
        "source toys: special tokens spelled out in documents are read as text: 2 </s>, 1 <s>;"
        in (capsys.readouterr().out)
    )
    whole = np.concatenate([made.train[0].ravel(), *(v.ravel() for v in made.validation.values())])
    documents = len(read_documents(recipe().sources[0], data))
    assert (whole == made.special.eos).sum() <= documents


def test_an_existing_tokenizer_is_used_as_it_is(data: Path, tmp_path: Path) -> None:
    first = build_training_data(recipe(tokenizer="sentencepiece"), data)
    folder = tmp_path / "tokenizer"
    for_transformers(first.tokenizer, 16).save_pretrained(folder)
    second = build_training_data(recipe(tokenizer=str(folder), seed=0), data, tmp_path / "run")
    assert np.array_equal(first.train[0], second.train[0])
    assert special_ids(second.tokenizer) == special_ids(first.tokenizer)
    with pytest.raises(UsageError, match=r"has \d+ tokens; vocab_size: at least"):
        build_training_data(recipe(tokenizer=str(folder), vocab_size=262), data)
    with pytest.raises(UsageError, match="expected byte-level, sentencepiece or a folder"):
        build_training_data(recipe(tokenizer="sentense"), data)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot read"):
        build_training_data(recipe(tokenizer=str(folder)), data)


def test_added_and_reordered_sources_leave_the_parts_as_they_are(data: Path) -> None:
    (data / "more.txt").write_text("\n".join(f"Line {i} of it." for i in range(200)))
    more = {**WITH_PROMPTS, "name": "more", "path": "more.txt", "split": "rows"}
    alone = build_training_data(recipe(), data)
    both, turned = (
        build_training_data(recipe(sources=sources), data)
        for sources in ([WITH_PROMPTS, more], [more, WITH_PROMPTS])
    )

    def text(built: TrainingData) -> str:
        tokens, _ = read_and_taught(torch.from_numpy(built.validation["toys"]))
        return built.tokenizer.decode(tokens.ravel().tolist())

    assert text(alone) == text(both) == text(turned)


def test_a_finalized_corpus_is_a_source_and_a_stream(
    data: Path, tmp_path: Path, encodings: list[int], one_thread: None
) -> None:
    generate_demo_corpus(data / "cd", max_new_tokens=40)
    rows = list(corpus_texts(data / "cd"))
    words = sum(len(text.split()) for text, _ in rows)
    read = {**WITH_PROMPTS, "name": "read", "path": "cd", "split": "rows", "validation": 0.2}
    mixing = {"ratio": 0.3, "corpora": [{"name": "cd", "path": str(data / "cd")}]}
    wanted = recipe(sources=[WITH_PROMPTS, read], synthetic=mixing)
    documents = read_documents(wanted.sources[1], data)
    assert [(d.text, d.complete) for d in documents] == [(text.strip(), end) for text, end in rows]
    first = build_training_data(wanted, data, tmp_path / "run")
    assert first.texts["cd"].words == words > 0
    assert {n: (t.synthetic, t.traced) for n, t in first.texts.items()} == {
        "toys": (False, True),
        "read": (True, False),
        "cd": (True, True),
    }
    before = len(encodings)
    second = build_training_data(wanted, data, tmp_path / "run")
    assert same(first, second) and len(encodings) == before
    assert isinstance(second.train[1], np.memmap)
