"""BOS and EOS are found where transformers finds them, and GOOD and BAD must agree on them.

Unless a test says otherwise, config.json names BOS 0 and EOS 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_folders import opened, refusal, word_tokenizer, write_model
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_model(tmp_path / "good")


@pytest.mark.parametrize(
    ("tokenizer_config", "bos"),
    [
        (None, 0),
        ({}, 0),
        ({"bos_token": None}, None),
        ({"bos_token": "b"}, 3),
        ({"bos_token": {"content": "b", "lstrip": False}}, 3),
    ],
    ids=["no file", "no key", "null", "string", "object"],
)
def test_tokenizer_config_decides_bos_before_config(
    tmp_path: Path, tokenizer_config: dict[str, object] | None, bos: int | None
) -> None:
    folder = write_model(tmp_path / "good", tokenizer_config=tokenizer_config)
    assert opened(folder).bos_token_id == bos


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "eos"),
    [
        (None, 1, None, (1,)),
        ({}, 1, {"eos_token": "c"}, (1,)),
        ({"eos_token_id": 2}, 1, {"eos_token": "c"}, (2,)),
        ({"eos_token_id": [3, 2, 3]}, 1, None, (3, 2)),
        ({"eos_token_id": None}, [1, 5], None, (1, 5)),
        (None, None, {"eos_token": "c"}, (4,)),
        (None, None, {"eos_token": None}, ()),
        (None, None, None, ()),
    ],
)
def test_generation_config_decides_eos_before_config_and_tokenizer(
    tmp_path: Path,
    generation: dict[str, object] | None,
    config: object,
    tokenizer: dict[str, object] | None,
    eos: tuple[int, ...],
) -> None:
    folder = write_model(
        tmp_path / "good",
        generation_config=generation,
        tokenizer_config=tokenizer,
        eos_token_id=config,
    )
    assert opened(folder).eos_token_ids == eos


def test_order_of_eos_ids_does_not_matter(tmp_path: Path) -> None:
    good = write_model(tmp_path / "good", eos_token_id=[1, 2])
    bad = write_model(tmp_path / "bad", eos_token_id=[2, 1])
    pair = opened(good, bad)
    assert (pair.eos_token_ids, pair.notes) == ((1, 2), ())


def beginning_with(token: str) -> Tokenizer:
    tokenizer = word_tokenizer(list("<>abc."))
    special = [(token, tokenizer.token_to_id(token))]
    tokenizer.post_processor = TemplateProcessing(single=f"{token} $A", special_tokens=special)
    return tokenizer


@pytest.mark.parametrize("bos", [None, 3])
def test_the_token_that_begins_a_text_must_agree(tmp_path: Path, bos: int | None) -> None:
    """BAD reads GOOD's prompts."""
    good = write_model(tmp_path / "good", beginning_with("<"))
    bad = write_model(tmp_path / "bad", word_tokenizer(list("<>abc.")), bos_token_id=bos)
    message = refusal(good, bad)
    assert f"begin a text with different tokens: [0] (bos 0) and [] (bos {bos})" in message
    opened(good, write_model(tmp_path / "alike", beginning_with("<"), bos_token_id=bos))


def test_one_of_two_tokenizers_may_lack_the_template(tmp_path: Path) -> None:
    good = write_model(tmp_path / "good", beginning_with("<"))
    opened(good, write_model(tmp_path / "bad", word_tokenizer(list("<>abc."))))


def test_a_bos_that_no_tokenizer_puts_first_does_not_matter(good: Path, tmp_path: Path) -> None:
    opened(good, write_model(tmp_path / "bad", bos_token_id=3))


@pytest.mark.parametrize("stops", [3, None, [1, 3]], ids=repr)
def test_goods_end_of_text_counts_and_this_is_said(good: Path, tmp_path: Path, stops: Any) -> None:
    """An instruct model ends its turns with another token than its base."""
    pair = opened(good, write_model(tmp_path / "bad", eos_token_id=stops))
    assert pair.eos_token_ids == (1,)
    shown = [] if stops is None else [3] if stops == 3 else stops
    assert pair.notes == (f"GOOD's end-of-text ids [1] count; BAD's, {shown}, are not used",)


def test_ends_of_text_that_bad_has_no_row_for(tmp_path: Path) -> None:
    """Tokens for chat are often added behind the base model's rows."""
    bad = write_model(tmp_path / "bad", vocab_size=5)
    pair = opened(write_model(tmp_path / "good", eos_token_id=[1, 5]), bad)
    assert (pair.vocab_size, pair.eos_token_ids) == (5, (1, 5))
    assert "BAD has 5 tokens, and so no row for GOOD's end-of-text ids [5]" in pair.notes[-1]
    message = refusal(write_model(tmp_path / "alone", eos_token_id=5), bad)
    assert "no row for GOOD's end-of-text ids [5]: no text would end" in message
    message = refusal(write_model(tmp_path / "bos", bos_token_id=5), bad)
    assert "no row for GOOD's token that begins a text, 5: give another BAD" in message


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [-1, 6, 7], ids=["negative", "padding row", "last row"])
def test_special_ids_must_be_tokens(tmp_path: Path, key: str, value: Any) -> None:
    good = write_model(tmp_path / "good", **{key: value})
    assert f"special token id {value} is outside the vocabulary of 6" in refusal(good)


@pytest.mark.parametrize("value", ["1", True, 1.0, {"id": 1}, [1, None]], ids=repr)
def test_special_ids_must_be_integers(tmp_path: Path, value: object) -> None:
    good = write_model(tmp_path / "good", eos_token_id=value)
    assert "eos_token_id an integer or a list of them" in refusal(good)


@pytest.mark.parametrize("token", ["<bos>", 7, {"contents": "<s>"}, ["<s>"]], ids=repr)
def test_special_token_must_be_defined(tmp_path: Path, token: object) -> None:
    good = write_model(tmp_path / "good", tokenizer_config={"bos_token": token})
    assert "tokenizer_config.json gives bos_token as" in refusal(good)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_an_optional_file_that_is_not_json_is_refused(good: Path, name: str) -> None:
    (good / name).write_text("{")
    assert f"{name} is not valid JSON" in refusal(good)
