"""The prompt table: the first tokens of each document, in a memory-mapped file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from cdgen.corpus.documents import hash_source, read_documents
from cdgen.corpus.plan import PromptPlan
from cdgen.errors import PlanMismatch, StorageError, UsageError
from cdgen.storage import read_record, sha256_of, write_atomic, write_record

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 1 << 20
_HEAD_CHARACTERS = 4096
_PADDING = -1


class PromptTable:
    """The token ids of every prompt: int32 [count, prompt_tokens] on disk, padded with -1."""

    def __init__(self, path: Path, plan: PromptPlan) -> None:
        self.plan = plan
        shape = (plan.count, plan.prompt_tokens)
        self._ids = np.memmap(path, dtype="<i4", mode="r", shape=shape)

    def __len__(self) -> int:
        return self.plan.count

    def largest_id(self) -> tuple[int, int]:
        """Return the first prompt that holds the largest token id, and that id."""
        prompt, column = divmod(int(self._ids.argmax()), self._ids.shape[1])
        return prompt, int(self._ids[prompt, column])

    def __getitem__(self, prompt_id: int) -> list[int]:
        row = self._ids[prompt_id]
        return cast(list[int], row[row != _PADDING].tolist())


@dataclass(frozen=True)
class PromptSource:
    """The origin of the prompts: the first `prompt_tokens` of [BOS] + each document's tokens."""

    source: str  # as --prompts names it
    tokenizer: Tokenizer
    tokenizer_sha256: str  # `checkpoints.pair.tokenizer_sha256`
    bos_token_id: int | None
    prompt_tokens: int


def prepare_prompts(source: PromptSource, folder: Path) -> PromptTable:
    """Return the table in `folder`; make it from `source` if it does not exist.

    An existing table is compared with the source's bytes and not made again. Raises UsageError for
    an unusable source, PlanMismatch if the table has another origin, StorageError.
    """
    if source.prompt_tokens < 1:
        raise UsageError(f"--prompt-tokens: expected 1 or more, got {source.prompt_tokens}")
    origin = {
        "source_sha256": hash_source(source.source),
        "tokenizer_sha256": source.tokenizer_sha256,
        "bos_token_id": source.bos_token_id,
        "prompt_tokens": source.prompt_tokens,
    }
    if not (folder / "prompts.json").exists():
        documents = read_documents(source.source)
        prompts = tokenize_heads(
            documents, source.tokenizer, source.bos_token_id, source.prompt_tokens
        )
        _write_table(folder, prompts, origin, source.source)
    record = read_record(folder / "prompts.json")
    changed = [name for name, value in origin.items() if record[name] != value]
    if changed:
        values = "; ".join(f"{name}: was {record[name]}, now {origin[name]}" for name in changed)
        raise PlanMismatch(
            f"{folder} holds prompts of another origin: {values}.\n"
            "Use the earlier values to resume this corpus, or choose another --out."
        )
    return open_table(folder)


def open_table(folder: Path) -> PromptTable:
    """Open the table that `prepare_prompts` made. Raises StorageError if it is damaged."""
    record = read_record(folder / "prompts.json")
    plan = PromptPlan.model_validate({name: record[name] for name in PromptPlan.model_fields})
    path = folder / "tokens.bin"
    if not path.is_file() or sha256_of(path) != plan.tokens_sha256:
        raise StorageError(f"{path} is damaged: its sha256 is not the one in prompts.json.")
    return PromptTable(path, plan)


def _write_table(
    folder: Path, prompts: Iterable[list[int]], origin: dict[str, Any], source: str
) -> None:
    width = origin["prompt_tokens"]
    count = 0

    def write_rows(file: BinaryIO) -> None:
        nonlocal count
        for prompt in prompts:
            row = np.full(width, _PADDING, dtype="<i4")
            row[: len(prompt)] = prompt
            file.write(row.tobytes())
            count += 1
        if not count:
            raise UsageError(f"--prompts {source}: no prompt in it, only blank lines or nothing.")

    written = write_atomic(folder / "tokens.bin", write_rows)
    write_record(
        folder / "prompts.json", {**origin, "tokens_sha256": written.sha256, "count": count}
    )


# ---- tokens ------------------------------------------------------------------------------------


def tokenize_heads(
    documents: Iterable[str], tokenizer: Tokenizer, bos_token_id: int | None, prompt_tokens: int
) -> Iterator[list[int]]:
    """Yield the first `prompt_tokens` ids of each document; skip documents without any token."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a copy, which may be changed
    tokenizer.no_truncation()
    tokenizer.no_padding()
    bos = [] if bos_token_id is None else [bos_token_id]
    needed = prompt_tokens - len(bos)
    heads_suffice = splits_at_spaces(tokenizer)
    head_characters = max(_HEAD_CHARACTERS, 16 * prompt_tokens)

    def encode(texts: list[str]) -> list[list[int]]:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids[:needed] for encoding in encodings]

    for batch in _batches(documents):
        heads = [_head(text, head_characters) for text in batch] if heads_suffice else batch
        for text, head, ids in zip(batch, heads, encode(heads), strict=True):
            if len(ids) < needed and head is not text:
                ids = encode([text])[0]
            if ids or bos:
                yield [*bos, *ids]


def _head(text: str, length: int) -> str:
    """Return `text` up to a single space between two words, at about `length` characters."""
    cut = re.compile(r"[^\s▁](?= \S)").search(text, length) if len(text) > length else None
    return text[: cut.end()] if cut else text


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Return whether the ids of a text, cut at a space between two words, begin the ids of the
    text.

    If so, a book needs only its first page tokenized. It is proven for two kinds of tokenizer:
    GPT-2's regular expression begins a new piece there whatever follows, and SentencePiece-like BPE
    has no token that reaches across the space. Returns False unless it is proven.
    """
    spec = json.loads(tokenizer.to_str())
    steps = _steps(spec["normalizer"], "normalizers")
    pieces = _steps(spec["pre_tokenizer"], "pretokenizers")
    added = spec["added_tokens"]
    if any(t["lstrip"] or t["rstrip"] or t["single_word"] or " " in t["content"] for t in added):
        return False
    if pieces and pieces[-1]["type"] == "ByteLevel" and pieces[-1]["use_regex"]:
        local = all(step["type"] == "NFC" for step in steps)
        return local and all(piece["type"] == "Digits" for piece in pieces[:-1])
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if pieces or mark not in steps or any(s["type"] != "Prepend" for s in steps if s != mark):
        return False
    model = spec["model"]
    affixes = (model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix"))
    if model["type"] != "BPE" or model["dropout"] or any(affixes):
        return False
    return "▁" in model["vocab"] and not any("▁" in t.lstrip("▁") for t in model["vocab"])


def _steps(spec: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if spec is None:
        return []
    return list(spec[key]) if spec["type"] == "Sequence" else [spec]


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Group documents, so that neither their number nor their characters in memory grow large."""
    batch: list[str] = []
    size = 0
    for document in documents:
        if batch and (len(batch) == _BATCH_DOCUMENTS or size + len(document) > _BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document)
    if batch:
        yield batch
