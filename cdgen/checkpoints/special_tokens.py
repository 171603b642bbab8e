"""The ids that begin and end a sequence, found in a checkpoint as transformers finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from cdgen.checkpoints.checkpoint import Checkpoint, read_json, reading
from cdgen.errors import ModelError


class SpecialIds(NamedTuple):
    """The BOS id, if the model has one, and every id that ends a sequence."""

    bos: int | None
    eos: tuple[int, ...]


def read_special_ids(model: Checkpoint, ids: dict[str, int]) -> SpecialIds:
    """Read the EOS ids as `generate` of transformers finds them, and BOS as its tokenizers do.

    `ids` maps every token of the model's tokenizer to its id. Raises ModelError.
    """
    generation = _read_optional(model, "generation_config.json")
    tokenizer = _read_optional(model, "tokenizer_config.json")
    bos = model.config.get("bos_token_id")
    if "bos_token" in tokenizer:  # null there means: no BOS, whatever config.json says
        bos = _named_id(model, tokenizer, "bos_token", ids)
    eos = generation.get("eos_token_id")
    if eos is None:
        eos = model.config.get("eos_token_id")
    if eos is None:
        eos = _named_id(model, tokenizer, "eos_token", ids)
    stops = eos if isinstance(eos, list) else [] if eos is None else [eos]
    _require_integers(model, [*stops, *([] if bos is None else [bos])])
    return SpecialIds(bos, tuple(dict.fromkeys(stops)))


def require_same_special_ids(good: SpecialIds, bad: SpecialIds) -> None:
    """Raise ModelError if GOOD and BAD disagree; the order of the EOS ids does not matter."""
    if good.bos == bad.bos and set(good.eos) == set(bad.eos):
        return
    raise ModelError(
        f"GOOD and BAD disagree on special tokens: bos {good.bos} and {bad.bos}, eos"
        f" {list(good.eos)} and {list(bad.eos)};\n  make generation_config.json, config.json and"
        " tokenizer_config.json of both name the same ids"
    )


def require_in_vocabulary(special: SpecialIds, vocab_size: int, folder: Path) -> None:
    """Raise ModelError if an id of the checkpoint in `folder` is not below `vocab_size`."""
    for value in (*special.eos, 0 if special.bos is None else special.bos):
        if not 0 <= value < vocab_size:
            raise ModelError(
                f"{folder}: special token id {value} is outside the vocabulary of"
                f" {vocab_size} tokens; correct bos_token_id and eos_token_id in its JSON files"
            )


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


def _require_integers(model: Checkpoint, values: list[Any]) -> None:
    for value in values:
        if type(value) is not int:  # a bool is no id
            raise ModelError(
                f"{model.folder}: bos_token_id must be an integer and eos_token_id an integer or"
                f" a list of them, got {value!r:.40}; correct the JSON files"
            )
