"""GOOD and BAD are checked against each other: tokenizers, vocabularies and context lengths."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checkpoint_folders import (
    WORDS,
    edit_config,
    opened,
    refusal,
    word_tokenizer,
    write_model,
)
from tokenizers import AddedToken, Tokenizer, models

from cdgen.checkpoints.bad_source import BadSource, parse_bad
from cdgen.checkpoints.pair import open_pair


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_model(tmp_path / "good")


@pytest.mark.parametrize("source", [BadSource("none"), BadSource("dropout", dropout=0.5)])
def test_dropout_and_none_open_no_bad(good: Path, source: BadSource) -> None:
    pair = open_pair(good, source)
    assert pair.bad is None
    assert pair.bad_source == source


def test_a_missing_bad_folder_is_refused(good: Path, tmp_path: Path) -> None:
    assert "nowhere: no such folder" in refusal(good, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("good_rows", "bad_rows", "expected"),
    [(8, 8, 6), (6, 64, 6), (64, 6, 6), (8, 5, 5)],
    ids=["both padded", "bad padded", "good padded", "bad smaller"],
)
def test_vocab_size_counts_tokens_that_both_score(
    tmp_path: Path, good_rows: int, bad_rows: int, expected: int
) -> None:
    good = write_model(tmp_path / "good", vocab_size=good_rows)
    bad = write_model(tmp_path / "bad", vocab_size=bad_rows)
    assert opened(good, bad).vocab_size == expected


def test_added_tokens_count_as_vocabulary(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(WORDS)
    tokenizer.add_special_tokens([AddedToken("<extra>", special=True)])
    assert opened(write_model(tmp_path / "good", tokenizer)).vocab_size == 7


def test_tokens_past_the_common_rows_may_differ(good: Path, tmp_path: Path) -> None:
    bad = write_model(tmp_path / "bad", word_tokenizer([*WORDS[:5], "other"]), vocab_size=5)
    assert opened(good, bad).vocab_size == 5


def test_differing_tokens_are_shown(good: Path, tmp_path: Path) -> None:
    bad = write_model(tmp_path / "bad", word_tokenizer([*WORDS[:3], "c", "b"]))
    first, second = refusal(good, bad).splitlines()
    assert "do not share a tokenizer: 3 of their 8 common ids" in first
    assert second == "  id GOOD BAD: 3 'b' 'c', 4 'c' 'b', 5 'd' -"


def test_only_ten_differing_tokens_are_shown(tmp_path: Path) -> None:
    words = [*WORDS, *(f"word{n}" for n in range(94))]
    good = write_model(tmp_path / "good", word_tokenizer(words), vocab_size=100)
    others = [*WORDS, *(f"{'long' * 20}{n}\n" for n in range(94))]
    bad = write_model(tmp_path / "bad", word_tokenizer(others), vocab_size=100)
    first, second = refusal(good, bad).splitlines()
    assert "94 of their 100 common ids" in first
    assert [int(shown.split()[0]) for shown in second.split(":")[1].split(", ")] == [*range(6, 16)]
    assert len(second) < 500


def test_two_tokens_with_one_id_are_compared_too(good: Path, tmp_path: Path) -> None:
    bad = write_model(tmp_path / "bad")
    content = json.loads((bad / "tokenizer.json").read_text())
    content["model"]["vocab"]["A"] = 2  # "a" has id 2 too
    (bad / "tokenizer.json").write_text(json.dumps(content))
    assert "1 of their 8 common ids" in refusal(good, bad)


@pytest.mark.parametrize("rows", [3, 5])
def test_a_tokenizer_may_have_more_ids_than_the_model_has_rows(tmp_path: Path, rows: int) -> None:
    """As Gemma 3's does, and those of models fine-tuned with an added token."""
    good = write_model(tmp_path / "good", vocab_size=rows)
    assert opened(good).vocab_size == rows
    assert opened(good, write_model(tmp_path / "bad")).vocab_size == rows
    assert opened(tmp_path / "bad", good).vocab_size == rows


# ---- GOOD and BAD are two models ---------------------------------------------------------------


def test_one_checkpoint_is_no_pair(good: Path) -> None:
    message = refusal(good, good)
    assert "GOOD and BAD are one model" in message
    assert "--bad dropout:0.5" in message


@pytest.mark.parametrize(
    "fields",
    [{}, {"_name_or_path": "org/copy", "transformers_version": "4.40.0", "dtype": "bfloat16"}],
    ids=["a copy", "saved by another version"],
)
def test_a_copy_is_no_pair(good: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    bad = Path(shutil.copytree(good, tmp_path / "bad"))
    edit_config(bad, **fields)
    with (bad / "tokenizer.json").open("a") as file:
        file.write("\n")
    assert "GOOD and BAD are one model" in refusal(good, bad)


def test_the_same_weights_under_another_config_are_another_model(
    good: Path, tmp_path: Path
) -> None:
    bad = Path(shutil.copytree(good, tmp_path / "bad"))
    edit_config(bad, rope_theta=100.0)
    assert opened(good, bad).vocab_size == 6


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": 1}', "\ufeff", "[" * 10_000])
def test_an_unusable_tokenizer_is_refused(good: Path, content: str) -> None:
    (good / "tokenizer.json").write_text(content)
    assert "tokenizer.json is not a usable tokenizer" in refusal(good)


def test_a_tokenizer_without_tokens_is_refused(tmp_path: Path) -> None:
    good = write_model(tmp_path / "good", Tokenizer(models.BPE()))
    assert "tokenizer.json defines no tokens" in refusal(good)


def test_saved_truncation_and_padding_are_off(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(WORDS)
    tokenizer.enable_truncation(1)
    tokenizer.enable_padding(length=4)
    pair = opened(write_model(tmp_path / "good", tokenizer))
    assert pair.tokenizer.encode(["a", "b"], is_pretokenized=True).ids == [2, 3]


@pytest.mark.parametrize(
    ("good_config", "bad_config", "expected"),
    [
        ({}, {}, None),
        ({"max_position_embeddings": 512}, {}, 512),
        ({"max_position_embeddings": 512}, {"n_positions": 256}, 256),
        ({"max_position_embeddings": 512}, {"max_seq_len": 64}, 64),
        ({"n_positions": 1024, "n_ctx": 128}, {"max_position_embeddings": 512}, 128),
    ],
)
def test_context_length_is_the_shortest_stated(
    tmp_path: Path, good_config: dict[str, Any], bad_config: dict[str, Any], expected: int | None
) -> None:
    good = write_model(tmp_path / "good", **good_config)
    bad = write_model(tmp_path / "bad", **bad_config)
    assert opened(good, bad).context_length == expected


def test_trained_pair(stories260k: SimpleNamespace) -> None:
    pair = open_pair(stories260k.good, parse_bad(str(stories260k.bad)))
    assert pair.bad is not None
    assert pair.good.sha256 != pair.bad.sha256
    assert (pair.vocab_size, pair.context_length) == (512, 512)
    assert (pair.bos_token_id, pair.eos_token_ids) == (1, (2,))
    text = "Once upon a time, there was a little girl named Lily."
    assert pair.tokenizer.decode(pair.tokenizer.encode(text).ids) == text


def test_trained_model_does_not_fit_another_tokenizer(
    good: Path, stories260k: SimpleNamespace
) -> None:
    message = refusal(stories260k.good, good)
    assert "do not share a tokenizer" in message
    assert "0 '<unk>' '<s>'" in message


def test_opening_a_pair_imports_no_torch(good: Path) -> None:
    program = (
        "import sys; from pathlib import Path;"
        "from cdgen.checkpoints.bad_source import parse_bad;"
        "from cdgen.checkpoints.pair import open_pair;"
        "open_pair(Path(sys.argv[1]), parse_bad('none'));"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(good)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
