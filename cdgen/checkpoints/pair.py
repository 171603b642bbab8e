"""The pair that is contrasted: GOOD, BAD, and the one tokenizer that they share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cdgen.checkpoints.bad_source import BadSource
from cdgen.checkpoints.checkpoint import Checkpoint, open_checkpoint
from cdgen.checkpoints.config_checks import CONTEXT_KEYS
from cdgen.checkpoints.special_tokens import (
    other_stops_note,
    read_special_ids,
    require_in_vocabulary,
    require_same_beginning,
    undrawn_stops_note,
)
from cdgen.checkpoints.tokenizer_file import read_tokenizer
from cdgen.errors import ModelError
from cdgen.storage import canonical_json

# Keys of config.json that record how a model was saved, and change nothing that it computes.
_BOOKKEEPING = {
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}


@dataclass(frozen=True)
class Pair:
    """GOOD and BAD, checked against each other. Ids from `vocab_size` on are never drawn."""

    good: Checkpoint
    bad: Checkpoint | None  # None unless `bad_source` is a folder
    bad_source: BadSource
    tokenizer: Tokenizer
    vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    prefix_token_ids: tuple[int, ...]  # what GOOD's tokenizer puts before a text
    context_length: int | None  # tokens, the shorter of the two; None if neither states one
    notes: tuple[str, ...]  # lines for the user


def open_pair(good: Path, bad: BadSource) -> Pair:
    """Check both checkpoints, and that they fit together. Raises ModelError."""
    good_model = open_checkpoint(good)
    bad_model = None if bad.folder is None else open_checkpoint(bad.folder)
    models = [good_model] if bad_model is None else [good_model, bad_model]
    notes = [note for model in models for note in model.notes]
    rows = min(model.config["vocab_size"] for model in models)
    tokenizer = _load_tokenizer(good_model)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    special = read_special_ids(good_model, tokenizer)
    if bad_model is not None:
        bad_tokenizer = _load_tokenizer(bad_model)
        _require_same_tokens(ids, bad_tokenizer.get_vocab(with_added_tokens=True), rows)
        _require_two_models(good_model, bad_model)
        bad_special = read_special_ids(bad_model, bad_tokenizer)
        require_same_beginning(special, bad_special)
        notes += other_stops_note(special, bad_special)
    tokens = max(ids.values()) + 1
    vocab_size = min(rows, tokens)  # a tokenizer may have more ids than its model has rows
    require_in_vocabulary(special, min(good_model.config["vocab_size"], tokens), good_model.folder)
    notes += undrawn_stops_note(special, vocab_size)
    contexts = [m.config[key] for m in models for key in CONTEXT_KEYS if m.config.get(key)]
    return Pair(
        good=good_model,
        bad=bad_model,
        bad_source=bad,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        bos_token_id=special.bos,
        eos_token_ids=special.eos,
        prefix_token_ids=special.prefix,
        context_length=min(contexts, default=None),
        notes=tuple(notes),
    )


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """Hash the parts of a tokenizer that decide which tokens a text becomes.

    Two tokenizers with the same hash encode every text alike. The template that adds special tokens
    and the decoder are left out.
    """
    state = json.loads(tokenizer.to_str())
    deciding = {
        name: state[name] for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")
    }
    return hashlib.sha256(canonical_json(deciding)).hexdigest()


def _load_tokenizer(model: Checkpoint) -> Tokenizer:
    path = model.folder / "tokenizer.json"
    tokenizer = read_tokenizer(path)
    if not tokenizer.get_vocab_size(with_added_tokens=True):
        raise ModelError(f"{path} defines no tokens: save the model's own tokenizer there")
    return tokenizer


def _require_two_models(good: Checkpoint, bad: Checkpoint) -> None:
    """Raise ModelError if BAD computes what GOOD does: plausible tokens would be drawn alike."""
    if good.weights_sha256 != bad.weights_sha256 or _deciding(good) != _deciding(bad):
        return
    raise ModelError(
        f"GOOD and BAD are one model: {good.folder} and {bad.folder} have the same weights, and"
        " nothing would be contrasted. Give an earlier checkpoint or a smaller model as BAD, or"
        " --bad dropout:0.5, layers:N or window:N for a BAD that is made of GOOD"
    )


def _deciding(model: Checkpoint) -> dict[str, Any]:
    """Return the part of a config that may change what a model computes."""
    return {key: value for key, value in model.config.items() if key not in _BOOKKEEPING}


def _require_same_tokens(good: dict[str, int], bad: dict[str, int], rows: int) -> None:
    differing = sorted({id_ for _, id_ in good.items() ^ bad.items() if id_ < rows})
    if not differing:
        return
    good_tokens, bad_tokens = _tokens_by_id(good), _tokens_by_id(bad)
    shown = (f"{i} {good_tokens.get(i, '-')} {bad_tokens.get(i, '-')}" for i in differing[:10])
    raise ModelError(
        f"GOOD and BAD do not share a tokenizer: {len(differing)} of their {rows} common ids stand"
        " for different tokens. BAD must be trained with GOOD's tokenizer.\n"
        f"  id GOOD BAD: {', '.join(shown)}"
    )


def _tokens_by_id(ids: dict[str, int]) -> dict[int, str]:
    return {id_: f"{token!r:.24}" for token, id_ in sorted(ids.items())}
