"""The ids that begin and end a sequence, found in a checkpoint as transformers finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from cdgen.checkpoints.checkpoint import Checkpoint, read_json, reading
from cdgen.checkpoints.text_prefix import prefix_of
from cdgen.errors import ModelError


class SpecialIds(NamedTuple):
    """The BOS id that a model names, if any; every id that ends a sequence; and the tokens that its
    tokenizer puts before a text."""

    bos: int | None
    eos: tuple[int, ...]
    prefix: tuple[int, ...] = ()


def read_special_ids(model: Checkpoint, tokenizer: Tokenizer) -> SpecialIds:
    """Read the EOS ids as `generate` of transformers finds them, and BOS as its tokenizers do.
    Raises ModelError."""
    ids = tokenizer.get_vocab(with_added_tokens=True)
    generation = _read_optional(model, "generation_config.json")
    named = _read_optional(model, "tokenizer_config.json")
    bos = model.config.get("bos_token_id")
    if "bos_token" in named:  # null there means: no BOS, whatever config.json says
        bos = _named_id(model, named, "bos_token", ids)
    eos = generation.get("eos_token_id")
    if eos is None:
        eos = model.config.get("eos_token_id")
    if eos is None:
        eos = _named_id(model, named, "eos_token", ids)
    stops = eos if isinstance(eos, list) else [] if eos is None else [eos]
    _require_integers(model, [*stops, *([] if bos is None else [bos])])
    return SpecialIds(bos, tuple(dict.fromkeys(stops)), tuple(prefix_of(tokenizer)))


def require_same_beginning(good: SpecialIds, bad: SpecialIds) -> None:
    """Raise ModelError if GOOD and BAD begin a text with different tokens: BAD reads GOOD's.

    What their tokenizers put first counts, or else the BOS that they name: one of two tokenizers
    may have been saved without the template that puts it there.
    """
    if good.prefix != bad.prefix and good.bos != bad.bos:
        raise ModelError(
            f"GOOD and BAD begin a text with different tokens: {list(good.prefix)} (bos {good.bos})"
            f" and {list(bad.prefix)} (bos {bad.bos});\n  make the tokenizers of both put, or name,"
            " the same token"
        )


def other_stops_note(good: SpecialIds, bad: SpecialIds) -> list[str]:
    """Return a line if GOOD and BAD end texts with different tokens, or nothing. The order of the
    EOS ids does not matter."""
    if set(good.eos) == set(bad.eos):
        return []
    return [f"GOOD's end-of-text ids {list(good.eos)} count; BAD's, {list(bad.eos)}, are not used"]


def require_in_vocabulary(special: SpecialIds, vocab_size: int, folder: Path) -> None:
    """Raise ModelError if an id of the checkpoint in `folder` is not below `vocab_size`."""
    for value in (*special.eos, 0 if special.bos is None else special.bos):
        if not 0 <= value < vocab_size:
            raise ModelError(
                f"{folder}: special token id {value} is outside the vocabulary of"
                f" {vocab_size} tokens; correct bos_token_id and eos_token_id in its JSON files"
            )


def undrawn_stops_note(good: SpecialIds, vocab_size: int) -> list[str]:
    """Return a line if BAD has no row for some of GOOD's end-of-text tokens, or nothing.

    Raises ModelError if it has none for all of them or for the token that begins a text.
    """
    undrawn = [token for token in good.eos if token >= vocab_size]
    lacks = f"BAD has {vocab_size} tokens, and so no row for GOOD's"
    if good.bos is not None and good.bos >= vocab_size:
        raise ModelError(f"{lacks} token that begins a text, {good.bos}: give another BAD")
    if undrawn == list(good.eos) != []:
        raise ModelError(f"{lacks} end-of-text ids {undrawn}: no text would end; give another BAD")
    return [f"{lacks} end-of-text ids {undrawn}: they are never drawn"] if undrawn else []


def _read_optional(model: Checkpoint, name: str) -> dict[str, Any]:
    with reading(model.folder):
        path = model.folder / name
        return read_json(path) if path.is_file() else {}


def _named_id(
    model: Checkpoint, named: dict[str, Any], key: str, ids: dict[str, int]
) -> int | None:
    token = named.get(key)
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


def _require_integers(model: Checkpoint, values: list[Any]) -> None:
    for value in values:
        if type(value) is not int:  # a bool is no id
            raise ModelError(
                f"{model.folder}: bos_token_id must be an integer and eos_token_id an integer or"
                f" a list of them, got {value!r:.40}; correct the JSON files"
            )
