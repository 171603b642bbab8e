"""Checkpoint folders of one tensor, to test how a pair is opened, and changes to real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
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
    """Write a checkpoint with, by default, 8 rows, 6 words, and BOS 0 and EOS 1 in config.json.
    Checkpoints of two names have different weights."""
    folder.mkdir()
    defaults = {"vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(defaults | config))
    (tokenizer or word_tokenizer(WORDS)).save(str(folder / "tokenizer.json"))
    if tokenizer_config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    if generation_config is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation_config))
    weights = torch.full((8, 2), float(sum(folder.name.encode())))
    save_file({"embed": weights}, folder / "model.safetensors")
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


def edit_config(folder: Path, **fields: object) -> None:
    """Change fields of a config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensors(
    folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    """Replace the tensors of a checkpoint in one file."""
    path = folder / "model.safetensors"
    tensors = edit(load_file(path))
    save_file(tensors, path, {"format": "pt"})


def add_code(folder: Path, **fields: object) -> Path:
    """Put code beside a checkpoint, for its config, its models and its tokenizer; return the file
    that it writes when it runs."""
    ran = folder.parent / f"{folder.name} ran its code"
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\nclass Custom: ...\n"
    (folder / "custom.py").write_text(code)
    kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    edit_config(folder, auto_map=dict.fromkeys(kinds, "custom.Custom"), **fields)
    names = {"auto_map": {"AutoTokenizer": [None, "custom.Custom"]}}
    path = folder / "tokenizer_config.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | names))
    return ran


def edit_index(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the index of a checkpoint in shards."""
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
