"""What is put before every prompt: the tokenizer's own rule, as transformers has it, or --bos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_folders import WORDS, opened, word_tokenizer, write_model
from tokenizers import Tokenizer, pre_tokenizers, processors
from transformers import AutoTokenizer

from cdgen.errors import UsageError
from cdgen.generation.config import GenerateConfig
from cdgen.generation.inputs import prompt_prefix, prompt_source

TEMPLATES: dict[str, tuple[str, list[int]]] = {
    "none": ("$A", []),
    "bos": ("<s> $A", [0]),
    "bos and eos": ("<s> $A </s>", [0]),
    "eos": ("$A </s>", []),
    "two": ("<s> c $A", [0, 4]),
}


def tokenizer(template: str) -> Tokenizer:
    made = word_tokenizer(WORDS)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<s>", "</s>"])
    named = [(word, WORDS.index(word)) for word in ("<s>", "</s>", "c")]
    made.post_processor = processors.TemplateProcessing(template, special_tokens=named)
    return made


def config(folder: Path, bos: str = "auto") -> GenerateConfig:
    values: dict[str, Any] = {"good": folder, "prompts": "p.txt", "out": "out", "bos": bos}
    return GenerateConfig(strategy="vanilla", **values)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tokenizers_rule_is_that_of_transformers(tmp_path: Path, name: str) -> None:
    template, expected = TEMPLATES[name]
    asked = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": name == "none"}
    folder = write_model(tmp_path / "good", tokenizer(template), asked)
    assert prompt_prefix(config(folder), opened(folder)) == tuple(expected)
    ids = AutoTokenizer.from_pretrained(folder)("b a").input_ids
    assert ids[: len(expected) + 2] == [*expected, 3, 2]


@pytest.mark.parametrize(
    ("template", "bos", "expected"),
    [
        ("$A", "always", (0,)),
        ("$A", "never", ()),
        ("<s> $A", "always", (0,)),
        ("<s> $A", "never", ()),
        ("<s> c $A", "always", (0, 4)),
        ("c $A", "always", (0, 4)),
    ],
)
def test_bos_on_request(tmp_path: Path, template: str, bos: str, expected: tuple[int, ...]) -> None:
    folder = write_model(tmp_path / "good", tokenizer(template))
    assert prompt_prefix(config(folder, bos), opened(folder)) == expected


def test_always_needs_a_bos(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "good", tokenizer("$A"), {"bos_token": None})
    with pytest.raises(UsageError, match="--bos always: GOOD names no bos_token"):
        prompt_prefix(config(folder, "always"), opened(folder))


@pytest.mark.parametrize(
    ("template", "asked", "note"),
    [
        ("$A", True, "add_bos_token is true, but tokenizer.json puts no BOS first: see --bos"),
        ("<s> $A", False, "add_bos_token is false, but tokenizer.json puts BOS first: see --bos"),
        ("<s> $A", True, None),
        ("$A", False, None),
        ("$A", None, None),
    ],
)
def test_an_add_bos_token_that_is_not_followed_is_said(
    tmp_path: Path, template: str, asked: bool | None, note: str | None
) -> None:
    fields: dict[str, object] = {"bos_token": "<s>"}
    fields |= {} if asked is None else {"add_bos_token": asked}
    folder = write_model(tmp_path / "good", tokenizer(template), fields)
    assert prompt_source(config(folder), opened(folder)).notes == ((note,) if note else ())
    assert prompt_source(config(folder, "never"), opened(folder)).notes == ()
