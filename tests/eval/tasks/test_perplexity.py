"""Perplexity per token, word and byte agrees with transformers and with values worked by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_scorer import PlainScorer
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cdgen.errors import UsageError
from cdgen.eval.modes import MODES
from cdgen.eval.scoring.scorer import Scorer
from cdgen.eval.scoring.spans import SpanEncoder
from cdgen.eval.summary import LOWER_IS_BETTER, Summary
from cdgen.eval.tasks import perplexity
from cdgen.eval.tasks.perplexity import Perplexity
from cdgen.eval.tasks.task_list import load_task
from cdgen.eval.tasks.tokenized import new_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

CONTEXT = 64  # tokens of context of the small models
TEXTS = ["The naïve cat sat on a мат.", "A", "It ran and ran. " * 30]


def summary_of(texts: list[str], folder: Path, longest: int = CONTEXT) -> Summary:
    task = Perplexity.of(texts, SpanEncoder(folder, True, longest))
    return task.summary(task.predict(Scorer(folder, "cpu").span_sums), MODES["default"])


def values(found: Summary) -> dict[str, float]:
    return {name: estimate.value for name, estimate in found.metrics.items()}


def windows(ids: list[int], size: int) -> Iterator[list[int]]:
    """Yield windows that begin with BOS and hold every other token once."""
    for start in range(0, len(ids), size - 1):
        yield [1, *ids[start : start + size - 1]]


def by_transformers(texts: list[str], folder: Path) -> tuple[list[float], list[int]]:
    """Return the log-probability and number of tokens of each text, from the model's own loss in
    float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sums, counts = [], []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        loss = 0.0
        for window in windows(ids, CONTEXT):
            batch = torch.tensor([window])
            with torch.inference_mode():
                loss += float(model(input_ids=batch, labels=batch).loss) * (len(window) - 1)
        sums.append(-loss)
        counts.append(len(ids))
    return sums, counts


def test_per_token_word_and_byte(llama: Path) -> None:
    """The long text takes three windows; the first token of each is predicted from BOS."""
    sums, tokens = by_transformers(TEXTS, llama)
    assert tokens[2] > 2 * (CONTEXT - 1)
    words, size = 7 + 1 + 30 * 4, 31 + 1 + 30 * 16
    found = summary_of(TEXTS, llama)
    assert values(found) == pytest.approx(
        {
            "perplexity": math.exp(-sum(sums) / sum(tokens)),
            "word_perplexity": math.exp(-sum(sums) / words),
            "byte_perplexity": math.exp(-sum(sums) / size),
        },
        rel=1e-4,
    )
    assert found.extra == {"bits_per_byte": pytest.approx(-sum(sums) / size / math.log(2))}
    assert found.items == 3
    assert {*found.metrics, *found.extra} == set(LOWER_IS_BETTER)
    for estimate in found.metrics.values():
        assert estimate.low <= estimate.value <= estimate.high and estimate.stderr > 0


def test_every_document_has_its_row(llama: Path) -> None:
    sums, tokens = by_transformers(TEXTS, llama)
    rows = Perplexity.of(TEXTS, SpanEncoder(llama, True, CONTEXT)).predict(
        Scorer(llama, "cpu").span_sums
    )
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert [row["tokens"] for row in rows] == tokens
    assert [row["words"] for row in rows] == [7, 1, 120]
    assert [row["bytes"] for row in rows] == [31, 1, 480]
    np.testing.assert_allclose([row["scores"][0] for row in rows], sums, rtol=1e-5)


def test_blocks_cross_documents(llama: Path) -> None:
    """In the mode `paper`, the perplexity is exp of transformers' loss over blocks of documents
    laid end to end, each between BOS and EOS."""
    tokenizer = AutoTokenizer.from_pretrained(llama)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    stream = [t for document in ids for t in (1, *document, tokenizer.eos_token_id)]
    blocks = [stream[i : i + CONTEXT] for i in range(0, len(stream), CONTEXT)]
    assert len(blocks) == 3 and len(ids[0]) + len(ids[1]) + 4 < CONTEXT
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64)
    loss = 0.0
    for block in blocks:
        batch = torch.tensor([block])
        with torch.inference_mode():
            loss += float(model(input_ids=batch, labels=batch).loss) * (len(block) - 1)
    task = Perplexity.of(TEXTS, SpanEncoder(llama, False, None, window=CONTEXT), by_blocks=True)
    rows = task.predict(Scorer(llama, "cpu").span_sums)
    # Every token counts for its own document, but for the first of each block.
    assert [row["tokens"] for row in rows] == [len(ids[0]) + 1, len(ids[1]) + 2, len(ids[2])]
    found = values(task.summary(rows, MODES["paper"]))
    assert found["perplexity"] == pytest.approx(math.exp(loss / (len(stream) - 3)), rel=1e-5)


def test_real_documents_by_the_plain_scorer(stories260k: Any) -> None:
    texts = ["Once upon a time there was a fox.", "It ran to the river, and swam."]
    plain = PlainScorer(stories260k.good)
    task = Perplexity.of(texts, SpanEncoder(stories260k.good, True, 512))
    rows = task.predict(Scorer(stories260k.good, "cpu").span_sums)
    expected = [plain.score(text, text) for text in texts]
    np.testing.assert_allclose([row["scores"][0] for row in rows], expected, atol=1e-3)


def test_a_uniform_models_perplexity_is_its_vocabulary(
    llama: Path, copy_of: Callable[..., Path]
) -> None:
    folder = copy_of(llama)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"].zero_()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    found = summary_of(TEXTS, folder)
    assert found.metrics["perplexity"].value == pytest.approx(4096, rel=1e-5)
    assert found.metrics["perplexity"].high == pytest.approx(4096, rel=1e-5)
    tokens = sum(by_transformers(TEXTS, folder)[1])
    assert found.extra["bits_per_byte"] == pytest.approx(12 * tokens / 512, rel=1e-5)


def test_a_tokenizer_that_adds_no_bos_is_given_one(llama: Path, without_bos: Path) -> None:
    """The same tokens are predicted then, the first one included."""
    assert values(summary_of(TEXTS, without_bos)) == values(summary_of(TEXTS, llama))


# ---- the task ----------------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Perplexity]:
    """Return a function that makes the task from the files of a folder, as `cdgen eval` does."""

    def make(folder: Path, mode: str = "default", **files: str) -> Perplexity:
        (tmp_path / "perplexity").mkdir()
        for name, content in files.items():
            (tmp_path / "perplexity" / name.replace("__", ".")).write_text(content)
        encoder = new_encoder(folder, AutoConfig.from_pretrained(folder).to_dict(), MODES[mode])
        task = load_task("perplexity", "perplexity", tmp_path, encoder, MODES[mode])
        assert isinstance(task, Perplexity)
        return task

    return make


def test_documents_are_lines_of_text_or_of_json(
    prepared: Callable[..., Perplexity], llama: Path
) -> None:
    rows = [json.dumps({"text": text}) + "\n" for text in ("two\nlines", "  ", "é")]
    task = prepared(llama, b__txt="one line\n\n  \nanother\n", a__jsonl="".join(rows), c__md="no")
    assert task.texts == ["two\nlines", "é", "one line", "another"]


@pytest.mark.parametrize("mode", ["default", "babylm2025", "paper"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_windows_are_as_long_as_the_models_context(
    prepared: Callable[..., Perplexity], architecture: Callable[[str], Path], kind: str, mode: str
) -> None:
    """They are even if the pipeline lets single items run on: perplexity is that of the lengths a
    model was trained for, and must not change with the rule for ties."""
    task = prepared(architecture(kind), mode, a__txt="It ran and ran. " * 60)
    assert task.spans.lengths.max() == CONTEXT
    assert task.spans.cut == 0


def test_a_model_without_a_context_length_has_long_windows(
    prepared: Callable[..., Perplexity], architecture: Callable[[str], Path]
) -> None:
    task = prepared(architecture("bloom"), a__txt="It ran and ran. " * 600)
    assert task.spans.lengths.max() == 2048 and len(task.spans) == 2


def test_a_first_token_that_the_pipeline_does_not_score_is_not_counted(
    prepared: Callable[..., Perplexity], without_bos: Path
) -> None:
    task = prepared(without_bos, "babylm2025", a__txt="The cat sat.\nA\n")
    rows = task.predict(lambda spans: np.zeros(len(spans)))
    ids = SpanEncoder(without_bos, False, None).token_ids("The cat sat.")
    assert [row["tokens"] for row in rows] == [len(ids) - 1, 0]


def test_a_special_token_that_is_spelled_out_is_text(
    prepared: Callable[..., Perplexity], llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = prepared(llama, a__txt="It ran.</s>\nIt sat.\n")
    assert task.texts == ["It ran.</s>", "It sat."]
    assert 2 not in task.spans.tokens
    assert "read as text: 1 </s>; each line is a document" in capsys.readouterr().err


def test_the_pipeline_takes_it_for_the_token(
    prepared: Callable[..., Perplexity], llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = prepared(llama, "babylm2025", a__txt="It ran.</s>\nIt sat.\n")
    assert 2 in task.spans.tokens
    assert "read as special tokens: 1 </s>" in capsys.readouterr().err


def test_a_bad_line_is_named(prepared: Callable[..., Perplexity], llama: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.jsonl, line 2"):
        prepared(llama, a__jsonl='{"text": "a"}\n{"txt": "b"}\n')


# ---- comparison --------------------------------------------------------------------------------


def test_comparison_takes_the_same_value_and_less_is_better(llama: Path) -> None:
    task = Perplexity.of(TEXTS, SpanEncoder(llama, True, CONTEXT))
    rows = task.predict(Scorer(llama, "cpu").span_sums)
    other = [{**row, "scores": [2 * row["scores"][0]], "tokens": 2 * row["tokens"]} for row in rows]
    ones = np.ones(3, np.int64)
    found = perplexity.scored("perplexity", [rows, other])
    assert found.seeds == 2 and not found.higher_is_better
    expected = task.summary(rows, MODES["default"]).metrics["perplexity"].value
    assert found.value(ones) == pytest.approx([expected, expected]), "each by its own tokens"
    by_word = perplexity.scored("word_perplexity", [rows, other]).value(ones)
    assert by_word[1] == pytest.approx(by_word[0] ** 2)


def test_a_draw_counts_documents_not_their_perplexities() -> None:
    rows = [
        {"scores": [-10.0], "tokens": 5, "words": 4, "bytes": 20},
        {"scores": [-90.0], "tokens": 15, "words": 9, "bytes": 60},
    ]
    value = perplexity.scored("perplexity", [rows]).value
    assert value(np.array([1, 1]))[0] == pytest.approx(math.exp(100 / 20))
    assert value(np.array([3, 1]))[0] == pytest.approx(math.exp(120 / 30))
    assert value(np.array([0, 2]))[0] == pytest.approx(math.exp(6))
