"""Training sequences from the finalized corpora of `cdgen generate`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from cdgen.checkpoints.pair import tokenizer_sha256
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import read_manifest
from cdgen.corpus.plan import Plan
from cdgen.corpus.reader import corpus_rows
from cdgen.errors import UsageError
from cdgen.storage import sha256_of
from cdgen.train.data.documents import Document
from cdgen.train.data.packing import encode
from cdgen.train.data.tokenizer import SpecialIds

_COLUMNS = ("tokens", "text", "finish_reason")
_BETWEEN = "\n\n"  # `TextRenderer` puts it between the documents of a row


def manifest_sha256(out: Path) -> str:
    """Return the hash that identifies a corpus: its manifest has the hashes of its files. Raises
    UsageError."""
    if not CorpusFolder(out).is_finalized:
        raise UsageError(f"{out}: expected a finalized corpus (cdgen finalize), found none")
    return sha256_of(out / "manifest.json")


def synthetic_sequences(
    out: Path, tokenizer: Tokenizer, special: SpecialIds
) -> tuple[list[np.ndarray], list[str]]:
    """Return the token sequences of the documents in `out`, and notes: that its text was tokenized
    again because its tokens are not the student's, why, and what is lost.

    A row's tokens are split at the ends of documents. The last document gets no EOS if it was cut
    off, or the model would learn to stop in mid-sentence. Quarantined rows are skipped. Raises
    UsageError if no row is left, StorageError if a file has changed since it was finalized.
    """
    plan = read_manifest(CorpusFolder(out)).plan
    if reason := _why_again(plan, tokenizer, special):
        documents, notes = _documents(out, plan.eos_token_ids)
        sequences = encode(tokenizer, special, documents)
        notes = [f"{reason}, tokenized again from its text", *notes]
    else:
        split = (split_row(row["tokens"], plan.eos_token_ids, special) for row in _rows(out))
        sequences = [np.array(tokens, dtype=np.int32) for row in split for tokens in row]
        notes = []
    if not sequences:
        raise UsageError(f"{out}: holds no text but that of quarantined rows")
    return sequences, notes


def ended(sequence: np.ndarray, special: SpecialIds) -> np.ndarray:
    """Return a document's tokens with an EOS, whether it had one or was cut off."""
    return sequence if sequence[-1] == special.eos else np.append(sequence, np.int32(special.eos))


def _why_again(plan: Plan, tokenizer: Tokenizer, special: SpecialIds) -> str:
    if not plan.tokenizer_sha256:
        return "its manifest does not say which tokenizer made it"
    if plan.tokenizer_sha256 != tokenizer_sha256(tokenizer):
        return "another tokenizer's corpus"
    return "" if special.eos in plan.eos_token_ids else "its documents end with another token"


def _rows(out: Path) -> Iterator[dict[str, Any]]:
    return (row for row in corpus_rows(out, _COLUMNS) if row["finish_reason"] != "quarantined")


def split_row(
    tokens: Sequence[int], stops: Collection[int], special: SpecialIds
) -> list[list[int]]:
    """Return the documents of a row: BOS, its tokens, and EOS if it ended; a BOS begins the next
    one."""
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


def _documents(out: Path, stops: Collection[int]) -> tuple[list[Document], list[str]]:
    documents: list[Document] = []
    rows = undivided = 0
    for row in _rows(out):
        found = split_text(row["text"], row["tokens"], stops)
        if found is None:
            ends = documents_ended(row["tokens"], stops, row["tokens"][0])
            found = [Document(row["text"], complete=ends[-1])]
            undivided += 1
        documents += found
        rows += 1
    unknown = (
        f"{undivided} of {rows} rows hold a blank line within a document, so where their documents"
        " end is not known: each is one document"
    )
    return documents, [unknown] * (undivided > 0)


def split_text(text: str, tokens: Sequence[int], stops: Collection[int]) -> list[Document] | None:
    """Return the documents of a row's text, which are separated by blank lines; the tokens tell how
    many there are and which of them ended. Returns None if the text has another number of parts."""
    parts = text.split(_BETWEEN)
    # A BOS after the last end belongs to no text. Its id is not known; a row may begin with it.
    for bos in (None, tokens[0]):
        ends = documents_ended(tokens, stops, bos)
        found = [text] if len(ends) <= 1 else parts
        if len(ends) == len(found):
            return [Document(t, complete=end) for t, end in zip(found, ends, strict=True) if t]
    return None if text else []


def documents_ended(tokens: Sequence[int], stops: Collection[int], bos: int | None) -> list[bool]:
    """Return, for every document of a row that has a token, whether it ended."""
    ended: list[bool] = []
    is_open = False
    for token in tokens:
        if token in stops or token == bos:
            if is_open:
                ended.append(token in stops)
            is_open = False
        else:
            is_open = True
    return ended + [False] * is_open
