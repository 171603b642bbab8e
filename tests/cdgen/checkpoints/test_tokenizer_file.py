"""Reading tokenizer.json: whatever the library does with a bad one, the error is a ModelError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folders import WORDS, edit_config, refusal, word_tokenizer, write_model
from tokenizers import Tokenizer, models, normalizers

from cdgen.checkpoints import tokenizer_file
from cdgen.checkpoints.pretrained import load_pretrained_tokenizer
from cdgen.checkpoints.tokenizer_file import read_tokenizer
from cdgen.corpus.first_tokens import first_tokens
from cdgen.errors import Interrupted, ModelError, UsageError, tokenizer_errors
from cdgen.train.data.tokenizer import load_tokenizer

# The Rust code of the library panics on this, and its error is no Exception.
PANICS = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}


@pytest.fixture
def panicking(tmp_path: Path) -> Path:
    """Write a checkpoint whose tokenizer cannot be read."""
    folder = write_model(tmp_path / "model", tokenizer_config={"eos_token": "</s>"})
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": PANICS}))
    return folder


def test_a_panic_is_an_error_of_one_line_everywhere(panicking: Path) -> None:
    assert "tokenizer.json is not a usable tokenizer (" in refusal(panicking)
    with pytest.raises(UsageError, match="is not a usable tokenizer"):
        load_tokenizer(panicking, 300)
    with pytest.raises(ModelError, match="transformers cannot load"):
        load_pretrained_tokenizer(panicking)


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word_tokenizer(WORDS).save(str(tmp_path / "tokenizer.json"))
    assert isinstance(read_tokenizer(tmp_path / "tokenizer.json"), Tokenizer)
    monkeypatch.setattr(tokenizer_file, "_MAX_BYTES", 100)
    with pytest.raises(ModelError, match=r"too large to be a tokenizer: \d+ bytes"):
        read_tokenizer(tmp_path / "tokenizer.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read: No such file"):
        read_tokenizer(tmp_path / "tokenizer.json")


def test_a_document_that_cannot_be_encoded(tmp_path: Path) -> None:
    """A WordPiece without its own unknown token."""
    tokenizer = Tokenizer(models.WordPiece({"a": 0}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    with pytest.raises(ModelError, match="the tokenizer cannot encode a document"):
        list(first_tokens(["b"], tokenizer, (), 3))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), Interrupted("stopped")])
def test_a_signal_is_no_fault_of_a_tokenizer(error: BaseException) -> None:
    with pytest.raises(type(error)), tokenizer_errors("nothing"):
        raise error


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_hidden_layers": 5000}, "num_hidden_layers must be an integer from 1 to 4096"),
        ({"text_config": {"num_hidden_layers": 5000}}, "num_hidden_layers must be at most 4096"),
        ({"decoder_layers": 10**9}, "decoder_layers must be at most 4096"),
        ({"num_local_experts": 10**6}, "num_local_experts must be at most 4096"),
        ({"intermediate_size": 2**30}, "intermediate_size must be at most"),
    ],
    ids=["layers", "inside", "other name", "experts", "width"],
)
def test_sizes_are_bounded_before_a_model_is_made(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    folder = write_model(tmp_path / "model")
    edit_config(folder, **fields)
    assert said in refusal(folder)


def test_sizes_that_are_lists_or_none_are_left_to_their_model(tmp_path: Path) -> None:
    from checkpoint_folders import opened

    lists = {"intermediate_size": [16, 32], "num_experts": 0, "n_inner": None, "head_dim": None}
    opened(write_model(tmp_path / "model", **lists))
