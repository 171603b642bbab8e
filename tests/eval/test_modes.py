"""The modes of `cdgen eval` differ in ties, WUG, first tokens and long texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_files import Run, document, predictions, scores_of
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tied_data(tmp_path: Path, write_jsonl: Callable[..., None]) -> Path:
    """Write four pairs, two of which are the same sentence twice."""
    rows = [
        {"sentence_good": f"The {noun}.", "sentence_bad": f"The {other}."}
        for noun, other in (("cat", "cat"), ("dog", "cow"), ("pig", "pig"), ("cow", "dog"))
    ]
    write_jsonl(tmp_path / "tied/supplement_fast/a.jsonl", rows)
    return tmp_path / "tied"


@pytest.mark.parametrize(("compat", "right"), [("default", 2), ("babylm2025", 3), ("paper", 3)])
def test_ties(run: Run, llama: Path, out: Path, tied_data: Path, compat: str, right: int) -> None:
    """The second and fourth pair mirror each other, so exactly one of them is right."""
    ended = run(llama, data=tied_data, tasks=None, compat=compat)
    found = document(out)["results"]["supplement_fast"]
    assert found["acc,none"] == right / 4
    assert found["ties,none"] == 2
    assert "2 ties" in ended.err


def test_wug_by_mode(run: Run, llama: Path, tmp_path: Path) -> None:
    for compat, metric in (("default", "spearman"), ("babylm2025", "spearman"), ("paper", "acc")):
        folder = tmp_path / compat
        assert run(llama, out=folder, tasks="wug_past_tense", compat=compat).code == 0
        assert list(document(folder)["higher_is_better"]["wug_past_tense"]) == [metric]
    first = [row["choice"] == 0 for row in predictions(tmp_path / "paper", "wug_past_tense")]
    results = document(tmp_path / "paper")["results"]["wug_past_tense"]
    assert results["acc,none"] == np.mean(first)


def test_perplexity_in_every_mode(run: Run, llama: Path, tmp_path: Path) -> None:
    """One document is longer than the context: it is read in windows, even if items run on. The
    mode `paper` reads blocks, which hold EOS too (tasks/test_perplexity.py)."""
    found = []
    for compat in ("default", "babylm2025", "paper"):
        assert run(llama, out=tmp_path / compat, tasks="perplexity", compat=compat).code == 0
        found.append(document(tmp_path / compat)["results"]["perplexity"])
    assert found[0]["cut,none"] == 0
    assert found[1] == found[0]
    assert found[2]["perplexity,none"] != found[0]["perplexity,none"]


def test_the_first_token_without_bos(run: Run, without_bos: Path, llama: Path, out: Path) -> None:
    """It is scored by default, as after a BOS; the pipeline leaves it out."""
    assert run(without_bos).code == 0
    default = scores_of(out)
    assert document(out)["config"]["prefix_token_ids"] == [1]
    assert run(llama).code == 0
    assert scores_of(out) == default
    assert run(without_bos, compat="babylm2025").code == 0
    assert document(out)["config"]["prefix_token_ids"] == []
    assert (np.array(scores_of(out)) > default).all()


@pytest.fixture
def long_data(tmp_path: Path, write_jsonl: Callable[..., None]) -> Path:
    """Write a pair whose first sentence exceeds the small models' 64 tokens, and a short pair."""
    rows = [
        {"sentence_good": "It ran and " * 30 + "stopped.", "sentence_bad": "It ran."},
        {"sentence_good": "It ran.", "sentence_bad": "It run."},
    ]
    write_jsonl(tmp_path / "long/supplement_fast/a.jsonl", rows)
    return tmp_path / "long"


def last_tokens_log_prob(folder: Path, text: str, count: int | None) -> float:
    """Return the log-probability of all but the first of the last `count` tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text)["input_ids"]])
    ids = ids[:, -count:] if count else ids
    with torch.inference_mode():
        return -float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)


@pytest.mark.parametrize(
    ("kind", "compat", "longest"),
    [
        ("llama", "default", 64),
        ("gpt2", "default", 64),
        # The pipeline cuts nothing: rotary positions run on; learned ones cannot.
        ("llama", "babylm2025", None),
        ("gpt2", "babylm2025", 64),
    ],
)
def test_a_text_longer_than_the_context(
    run: Run,
    architecture: Callable[[str], Path],
    out: Path,
    long_data: Path,
    kind: str,
    compat: str,
    longest: int | None,
) -> None:
    folder = architecture(kind)
    ended = run(folder, data=long_data, tasks=None, compat=compat)
    assert ended.code == 0
    assert document(out)["results"]["supplement_fast"]["cut,none"] == (1 if longest else 0)
    assert ("1 texts cut to the context length" in ended.err) == bool(longest)
    text = json.loads((long_data / "supplement_fast/a.jsonl").read_text().splitlines()[0])
    expected = last_tokens_log_prob(folder, text["sentence_good"], longest)
    assert scores_of(out, "supplement_fast")[0][0] == pytest.approx(expected, abs=1e-3)
