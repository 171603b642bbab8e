"""Sequences to train on from the finalized corpora of `cdgen generate`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cdgen.corpus import read_manifest, render_text
from cdgen.errors import UsageError
from cdgen.finalize import read_batches
from cdgen.out_folder import is_finalized
from cdgen.storage import sha256_of
from cdgen.train.tokenizer import SpecialIds

_COMPARED = 64  # rows whose text tells whether the corpus has the student's tokenizer


def manifest_sha256(out: Path) -> str:
    """What identifies the corpus: hashes of its files are in the manifest. Raises UsageError."""
    if not is_finalized(out):
        raise UsageError(f"{out}: expected a finalized corpus (cdgen finalize), found none")
    return sha256_of(out / "manifest.json")


def synthetic_sequences(
    out: Path, tokenizer: Tokenizer, special: SpecialIds
) -> tuple[list[list[int]], bool]:
    """Token sequences of the documents in `out`, and whether they had to be tokenized again.

    A row's tokens are split where a document ends; the last one gets no EOS if it was cut off
    (`finish_reason` length): the model would learn to stop in mid-sentence. Quarantined rows are
    left out. A corpus of another tokenizer is tokenized from its text, a row being one document.
    """
    rows = list(_rows(out))
    if not rows:
        raise UsageError(f"{out}: holds no row that was not quarantined")
    stops = read_manifest(out).plan.eos_token_ids
    if _is_its_tokenizer(tokenizer, special, rows[:_COMPARED], stops):
        return [seq for row in rows for seq in split_row(row["tokens"], stops, special)], False
    encodings = tokenizer.encode_batch_fast([r["text"] for r in rows], add_special_tokens=False)
    begin = [] if special.bos is None else [special.bos]
    return [
        [*begin, *encoding.ids, *([special.eos] if row["finish_reason"] == "eos" else [])]
        for encoding, row in zip(encodings, rows, strict=True)
    ], True


def _rows(out: Path) -> Iterator[dict[str, Any]]:
    columns = ["tokens", "text", "finish_reason"]
    for path in sorted((out / "data").glob("*.parquet")):
        for table in read_batches(path):
            for row in table.select(columns).to_pylist():
                if row["finish_reason"] != "quarantined":
                    yield row


def split_row(
    tokens: Sequence[int], stops: Collection[int], special: SpecialIds
) -> list[list[int]]:
    """The documents of a row: BOS, its tokens, and EOS where it ended; a BOS begins the next."""
    begin = [] if special.bos is None else [special.bos]
    documents: list[list[int]] = [[*begin]]
    for token in tokens:
        if token in stops:
            documents[-1].append(special.eos)
        if token in stops or token == special.bos:
            documents.append([*begin])
        else:
            documents[-1].append(token)
    empty = (begin, [*begin, special.eos])
    return [document for document in documents if document not in empty]


def _is_its_tokenizer(
    tokenizer: Tokenizer,
    special: SpecialIds,
    rows: Sequence[dict[str, Any]],
    stops: Collection[int],
) -> bool:
    """Whether the rows' tokens are the rows' text in this tokenizer, and documents end alike."""
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
    boundaries = {*stops} if special.bos is None else {*stops, special.bos}
    return special.eos in stops and all(
        max(row["tokens"]) < vocabulary
        and render_text(tokenizer, row["tokens"], boundaries) == row["text"]
        for row in rows
    )
