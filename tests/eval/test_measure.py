"""`cdgen measure` prints and writes the measures of a text or corpus, with a judge or without."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cdgen.cli.demo import ASSETS
from cdgen.eval import measure as measure_module
from cdgen.generation.config import GenerateConfig
from cdgen.generation.run import generate

pytestmark = pytest.mark.usefixtures("one_thread")

Measure = Callable[..., Any]
LINES = ["The cat ran to the big dog.", "A dog ran.", "The cat ran to the big dog.", "Böse Katze."]


@pytest.fixture
def measure(cdgen: Measure, tmp_path: Path) -> Measure:
    """Return a function that runs `cdgen measure` and returns the numbers it wrote and how it
    ended."""

    def go(*arguments: object, **flags: object) -> tuple[dict[str, Any], Any]:
        out = tmp_path / "numbers.json"
        pairs = [(f"--{name}", value) for name, value in flags.items()]
        ended = cdgen("measure", *arguments, "--out", out, *(x for pair in pairs for x in pair))
        return (json.loads(out.read_text()) if out.exists() else {}), ended

    return go


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate six sequences with the bundled pair."""
    folder = tmp_path_factory.mktemp("corpus")
    prompts = (ASSETS / "demo-prompts.txt").read_text().splitlines()[:3]
    (folder / "prompts.txt").write_text("\n".join(prompts))
    pair = ASSETS / "demo-pair"
    config = GenerateConfig(
        good=pair / "good",
        bad=str(pair / "bad"),
        prompts=str(folder / "prompts.txt"),
        out=folder / "out",
        prompt_tokens=6,
        num_sequences=2,
        max_new_tokens=12,
    )
    generate(config)
    return folder / "out"


def word_perplexity(texts: list[str], folder: Path) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loss = 0.0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            loss += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    return math.exp(loss / sum(len(text.split()) for text in texts))


# ---- text --------------------------------------------------------------------------------------


def test_text_in_another_column_with_a_blank_row(measure: Measure, tmp_path: Path) -> None:
    rows = [{"meta": {"body": line}} for line in (*LINES, " ")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, ended = measure(path, **{"text-column": "meta.body"})
    assert (found["documents"], found["words"]) == (4, 19)
    said = f"{path}: 4 documents; blank texts left out: 1; each row is a document\n"
    assert ended.code == 0 and ended.err == said


def test_text_without_a_judge(measure: Measure, text: Path) -> None:
    found, ended = measure(text)
    assert ended.code == 0 and ended.err == ""
    assert (found["documents"], found["words"]) == (4, 19)
    assert found["duplicates"] == 1 / 4
    assert found["distinct"]["1"] == 12 / 19
    assert found["novelty"] is None
    assert "judge" not in found and "new_tokens" not in found
    said = dict(line.split(None, 1) for line in ended.out.splitlines())
    assert said["documents"] == "4, 25.00 % of them copies"
    assert said["words"] == "19, mean 4.8, median 5, p95 7 a document"
    assert "1: 0.632" in ended.out and "novel" not in ended.out and "perplexity" not in ended.out


def test_novelty_against_training_text_of_two_files(
    measure: Measure, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("The cat ran.\n")
    (tmp_path / "b.jsonl").write_text('{"text": "to the big dog. A"}\n')
    found, ended = measure(text, "--training", tmp_path / "a.txt", training=tmp_path / "b.jsonl")
    assert ended.code == 0
    assert found["reference_words"] == 8
    assert found["novelty"]["1"] == 5 / 19  # ran (twice), dog, Böse, Katze.
    assert "n-grams not in 8 words" in ended.out


def test_a_judge(measure: Measure, text: Path, llama: Path) -> None:
    found, ended = measure(text, judge=llama)
    assert ended.code == 0
    judge = found["judge"]
    expected = word_perplexity(LINES, llama)
    assert judge["word_perplexity"]["value"] == pytest.approx(expected, rel=1e-4)
    assert judge["word_perplexity"]["low"] <= expected <= judge["word_perplexity"]["high"]
    perplexities = {"perplexity", "word_perplexity", "byte_perplexity"}
    assert set(judge) == {"model_sha256", "documents"} | perplexities
    assert judge["documents"] == 4
    assert f"{judge['word_perplexity']['value']:.1f} (" in ended.out
    assert f"per token {judge['perplexity']['value']:.2f}" in ended.out
    without, _ = measure(text)
    assert {**without, "judge": judge} == found, "a judge changes nothing else"


def test_a_judge_whose_tokenizer_adds_no_bos(
    measure: Measure, text: Path, llama: Path, without_bos: Path
) -> None:
    """It judges the same tokens, the first of each document included."""
    expected, found = (measure(text, judge=judge)[0]["judge"] for judge in (llama, without_bos))
    assert found["model_sha256"] != expected["model_sha256"]
    assert found["perplexity"] == expected["perplexity"]


def test_documents_longer_than_the_judges_context(
    measure: Measure, llama: Path, tmp_path: Path
) -> None:
    """They are read in windows: no token is left out, and text repeated twice has about the same
    likelihood per word."""
    line = "It ran to the big dog and the cat. " * 20
    (tmp_path / "text.txt").write_text(f"{line}\n{line}\n{line}{line}\n")
    found, ended = measure(tmp_path / "text.txt", judge=llama)
    assert ended.code == 0
    tokens = 4 * len(AutoTokenizer.from_pretrained(llama)(line)["input_ids"])
    per_word, per_token = (
        found["judge"][name]["value"] for name in ("word_perplexity", "perplexity")
    )
    ratio = math.log(per_word) / math.log(per_token)
    assert ratio == pytest.approx(tokens / found["words"], rel=0.05)


def test_the_judge_reads_documents_from_the_whole_text(
    measure: Measure, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"Line {number} it is." for number in range(9)]
    (tmp_path / "text.txt").write_text("\n\n".join(lines))
    monkeypatch.setattr(measure_module, "JUDGED", 3)
    found, _ = measure(tmp_path / "text.txt", judge=llama)
    assert found["judge"]["documents"] == 3
    expected = word_perplexity([lines[0], lines[4], lines[8]], llama)
    assert found["judge"]["word_perplexity"]["value"] == pytest.approx(expected, rel=1e-4)


def test_a_single_document(measure: Measure, llama: Path, tmp_path: Path) -> None:
    """Its perplexity has no interval over documents; its other measures stand."""
    (tmp_path / "text.txt").write_text(LINES[0])
    assert measure(tmp_path / "text.txt")[1].code == 0
    _, ended = measure(tmp_path / "text.txt", judge=llama)
    assert ended.code == 0 or "document" in ended.err, ended.err


# ---- a corpus of ours --------------------------------------------------------------------------


def test_a_corpus_of_cdgen(measure: Measure, corpus: Path, llama: Path) -> None:
    found, ended = measure(corpus, judge=llama, training=ASSETS / "demo-prompts.txt")
    assert ended.code == 0, ended
    assert found["documents"] == 6 and found["judge"]["documents"] == 6
    assert 0 < found["new_tokens"]["mean"] <= 12
    assert sum(found["finish_reasons"].values()) == 6
    assert 0 < found["novelty"]["2"] < found["novelty"]["5"] <= 1
    for word in ("new tokens", "ended by", "n-grams not in", "word perplexity of 6 documents"):
        assert any(line.startswith(word) for line in ended.out.splitlines()), word


def test_a_judge_that_wrote_the_text_finds_it_likelier(
    measure: Measure, corpus: Path, llama: Path
) -> None:
    values = [
        measure(corpus, judge=judge)[0]["judge"]["perplexity"]["value"]
        for judge in (ASSETS / "demo-pair/good", llama)
    ]
    assert values[0] < 100 < 4096 / 4 < values[1]


# ---- bad input ---------------------------------------------------------------------------------


def test_missing_sources_are_named(
    measure: Measure, text: Path, llama: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "stories"
    for code, arguments, flags in (
        (2, [missing], {}),
        (2, [tmp_path / "stories.txt"], {}),
        (2, [text], {"training": missing}),
        (4, [text], {"judge": missing}),
    ):
        found, ended = measure(*arguments, **flags)
        assert ended.code == code and "stories" in ended.err, ended
        assert ended.err.startswith("cdgen: ") and len(ended.err.splitlines()) == 1
        assert ended.out == "" and not found
        assert "--prompts" not in ended.err, "this command has no such flag"


def test_files_that_are_no_text(measure: Measure, text: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "table.csv").write_text("a,b\n")
    for path, says in (
        (tmp_path / "empty", "empty"),
        (tmp_path / "blank.txt", "no document"),
        (tmp_path / "bad.jsonl", "bad.jsonl, line 2"),
        (tmp_path / "table.csv", "table.csv"),
    ):
        for arguments in ([path], [text, "--training", path]):
            _, ended = measure(*arguments)
            assert ended.code == 2, (path, ended)
            if says != "no document" or len(arguments) == 1:
                assert says in ended.err
            assert "--prompts" not in ended.err, "this command has no such flag"


def test_a_judge_that_cannot_be_used_is_refused_before_the_long_part(
    measure: Measure,
    text: Path,
    llama: Path,
    copy_of: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = copy_of(llama)
    (folder / "tokenizer.json").unlink()

    def refuse(*_: Any) -> None:
        pytest.fail("the text was measured")

    monkeypatch.setattr(measure_module, "measure", refuse)
    _, ended = measure(text, judge=folder)
    assert ended.code == 4 and "tokenizer.json" in ended.err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "tpu"):
        _, ended = measure(text, judge=llama, device=device)
        assert ended.code == 2 and "--device" in ended.err


def test_a_judge_with_nan_weights(
    measure: Measure, text: Path, llama: Path, copy_of: Callable[..., Path]
) -> None:
    folder = copy_of(llama)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"].fill_(math.nan)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    found, ended = measure(text, judge=folder)
    assert ended.code == 4 and "NaN" in ended.err and not found


def test_numbers_that_cannot_be_written(cdgen: Measure, text: Path, tmp_path: Path) -> None:
    (tmp_path / "nowhere").write_text("a file, no folder")
    ended = cdgen("measure", text, "--out", tmp_path / "nowhere/numbers.json")
    assert ended.code == 5 and "nowhere" in ended.err
    assert "documents" in ended.out, "they were computed: they are shown"
