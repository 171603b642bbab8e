"""Checkpoint folders of one tensor, to test how a pair is opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from cdgen.checkpoints.bad_source import BadSource
from cdgen.checkpoints.pair import Pair, open_pair
from cdgen.errors import ModelError

WORDS = ["<s>", "</s>", "a", "b", "c", "d"]


def word_tokenizer(words: list[str]) -> Tokenizer:
    """Return a tokenizer of whole words: id n is the n-th of `words`."""
    ids = {word: number for number, word in enumerate(words)}
    return Tokenizer(models.WordLevel(ids, unk_token="a"))


def write_model(
    folder: Path,
    tokenizer: Tokenizer | None = None,
    tokenizer_config: dict[str, object] | None = None,
    generation_config: dict[str, object] | None = None,
    **config: object,
) -> Path:
    """Write a checkpoint with, by default, 8 rows, 6 words, and BOS 0 and EOS 1 in config.json."""
    folder.mkdir()
    defaults = {"vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(defaults | config))
    (tokenizer or word_tokenizer(WORDS)).save(str(folder / "tokenizer.json"))
    if tokenizer_config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    if generation_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation_config))
    save_file({"embed": torch.zeros(8, 2)}, folder / "model.safetensors")
    return folder


def opened(good: Path, bad: Path | None = None) -> Pair:
    """Open the pair of two folders, or GOOD alone."""
    return open_pair(good, BadSource("none") if bad is None else BadSource("folder", bad))


def refusal(good: Path, bad: Path | None = None) -> str:
    """Return the message with which a pair is refused, a line or two with exit code 4."""
    with pytest.raises(ModelError) as caught:
        opened(good, bad)
    assert caught.value.exit_code == 4
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)
