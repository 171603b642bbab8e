"""The pair that is contrasted: GOOD, BAD, and the one tokenizer that they share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tokenizers import Tokenizer

from cdgen.checkpoints.checkpoint import (
    Checkpoint,
    open_checkpoint,
    read_json,
    reading,
)
from cdgen.errors import ModelError, UsageError
from cdgen.storage import canonical_json

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx")


@dataclass(frozen=True)
class BadSource:
    """Where BAD comes from: a folder, GOOD itself with attention dropout, or nowhere."""

    kind: Literal["folder", "dropout", "none"]
    folder: Path | None = None  # for kind "folder" alone
    dropout: float = 0.0  # for kind "dropout" alone, between 0 and 1 and neither of them


@dataclass(frozen=True)
class Pair:
    """GOOD and BAD, checked against each other. Ids from `vocab_size` on are never drawn."""

    good: Checkpoint
    bad: Checkpoint | None
    bad_source: BadSource
    tokenizer: Tokenizer
    vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    context_length: int | None  # tokens, the shorter of the two; None where neither states one


class _SpecialIds(NamedTuple):
    bos: int | None
    eos: tuple[int, ...]


def parse_bad(text: str) -> BadSource:
    """What `--bad` says: `none`, `dropout:P` or a folder; raises UsageError."""
    if text == "none":
        return BadSource("none")
    kind, colon, rate = text.partition(":")
    if kind == "dropout":
        try:
            dropout = float(rate)
        except ValueError:
            dropout = 0.0
        if not (colon and 0.0 < dropout < 1.0):
            raise UsageError(
                f"--bad {text}: expected dropout:P with P between 0 and 1, such as dropout:0.5"
                " (for a folder of this name: ./dropout)"
            )
        return BadSource("dropout", dropout=dropout)
    if not text:
        raise UsageError("--bad is empty: expected a checkpoint folder, dropout:P or none")
    return BadSource("folder", folder=Path(text))


def open_pair(good: Path, bad: BadSource) -> Pair:
    """Check both checkpoints, and that they fit together; raises ModelError."""
    good_model = open_checkpoint(good)
    bad_model = None if bad.folder is None else open_checkpoint(bad.folder)
    models = [good_model] if bad_model is None else [good_model, bad_model]
    rows = min(model.config["vocab_size"] for model in models)
    tokenizer = _load_tokenizer(good_model)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    _check_ids_have_rows(good_model, ids)
    special = _special_ids(good_model, ids)
    if bad_model is not None:
        bad_ids = _load_tokenizer(bad_model).get_vocab(with_added_tokens=True)
        _check_same_tokens(ids, bad_ids, rows)
        _check_same_special(special, _special_ids(bad_model, bad_ids))
    vocab_size = min(rows, max(ids.values()) + 1)
    _check_special_in_range(good_model, special, vocab_size)
    contexts = [m.config[key] for m in models for key in _CONTEXT_KEYS if m.config.get(key)]
    return Pair(
        good=good_model,
        bad=bad_model,
        bad_source=bad,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        bos_token_id=special.bos,
        eos_token_ids=special.eos,
        context_length=min(contexts, default=None),
    )


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """Of what decides the tokens of a text, whatever stands around them: two that agree in it read
    every text alike."""
    state = json.loads(tokenizer.to_str())
    deciding = {
        name: state[name] for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")
    }
    return hashlib.sha256(canonical_json(deciding)).hexdigest()


def _load_tokenizer(model: Checkpoint) -> Tokenizer:
    path = model.folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises this class itself, nothing narrower
        raise ModelError(f"{path} is not a usable tokenizer ({error}): save it again") from error
    if not tokenizer.get_vocab_size(with_added_tokens=True):
        raise ModelError(f"{path} defines no tokens: save the model's own tokenizer there")
    # Either may be saved in the file, and would cut or pad every document.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _check_ids_have_rows(good: Checkpoint, ids: dict[str, int]) -> None:
    token, highest = max(ids.items(), key=lambda item: item[1])
    if highest >= good.config["vocab_size"]:
        raise ModelError(
            f"{good.folder / 'tokenizer.json'} gives {token!r:.40} the id {highest}, but vocab_size"
            f" in config.json is {good.config['vocab_size']}: the tokenizer is another model's"
        )


def _check_same_tokens(good: dict[str, int], bad: dict[str, int], rows: int) -> None:
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


def _special_ids(model: Checkpoint, ids: dict[str, int]) -> _SpecialIds:
    """Stop ids as `generate` of transformers finds them, BOS as its tokenizers do."""
    generation = _read_optional(model, "generation_config.json")
    tokenizer = _read_optional(model, "tokenizer_config.json")
    bos = model.config.get("bos_token_id")
    if "bos_token" in tokenizer:  # null there means: this tokenizer has none, whatever the config
        bos = _named_id(model, tokenizer, "bos_token", ids)
    eos = generation.get("eos_token_id")
    if eos is None:
        eos = model.config.get("eos_token_id")
    if eos is None:
        eos = _named_id(model, tokenizer, "eos_token", ids)
    stops = eos if isinstance(eos, list) else [] if eos is None else [eos]
    for value in [*stops, 0 if bos is None else bos]:
        if type(value) is not int:
            raise ModelError(
                f"{model.folder}: bos_token_id must be an integer and eos_token_id an integer or"
                f" a list of them, got {value!r:.40}; correct the JSON files"
            )
    return _SpecialIds(bos, tuple(dict.fromkeys(stops)))


def _read_optional(model: Checkpoint, name: str) -> dict[str, Any]:
    with reading(model.folder):
        path = model.folder / name
        return read_json(path) if path.is_file() else {}


def _named_id(
    model: Checkpoint, tokenizer: dict[str, Any], key: str, ids: dict[str, int]
) -> int | None:
    token = tokenizer.get(key)
    if token is None:
        return None
    if isinstance(token, dict):  # an AddedToken, written out
        token = token.get("content")
    if not isinstance(token, str) or token not in ids:
        raise ModelError(
            f"{model.folder / 'tokenizer_config.json'} gives {key} as {token!r:.40}, which"
            " tokenizer.json does not define: save the tokenizer again"
        )
    return ids[token]


def _check_same_special(good: _SpecialIds, bad: _SpecialIds) -> None:
    if good.bos == bad.bos and set(good.eos) == set(bad.eos):
        return
    raise ModelError(
        f"GOOD and BAD disagree on special tokens: bos {good.bos} and {bad.bos}, eos"
        f" {list(good.eos)} and {list(bad.eos)};\n  make generation_config.json, config.json and"
        " tokenizer_config.json of both name the same ids"
    )


def _check_special_in_range(good: Checkpoint, special: _SpecialIds, vocab_size: int) -> None:
    for value in (*special.eos, 0 if special.bos is None else special.bos):
        if not 0 <= value < vocab_size:
            raise ModelError(
                f"{good.folder}: special token id {value} is outside the vocabulary of"
                f" {vocab_size} tokens; correct bos_token_id and eos_token_id in its JSON files"
            )
