"""The prompt table: the first tokens of each document, in a memory-mapped file, and beside it where
each document came from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from cdgen.corpus.documents import DocumentSource, open_source
from cdgen.corpus.first_tokens import first_tokens
from cdgen.corpus.folder import PROMPT_RECORD
from cdgen.corpus.plan import PromptPlan, parse_stored
from cdgen.corpus.special_marks import SpecialMarks
from cdgen.errors import PlanMismatch, StorageError, UsageError
from cdgen.storage import lock, read_record, sha256_of, write_atomic, write_record

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TOKENS = "tokens.bin"
ORIGINS = "origins.jsonl"  # per prompt: file and row (or line), and the row's `id` if it has one
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
    """The origin of prompts: the first `prompt_tokens` tokens of `prefix` + each document."""

    documents: str  # as --prompts names them
    tokenizer: Tokenizer
    tokenizer_sha256: str  # `checkpoints.pair.tokenizer_sha256`, as in the plan
    prefix: tuple[int, ...]  # usually BOS, or nothing
    prompt_tokens: int
    text_column: str = "text"
    notes: tuple[str, ...] = ()  # to be said with those of the documents

    def open(self) -> DocumentSource:
        """Open the documents. Raises UsageError."""
        label = f"--prompts {self.documents}".rstrip()
        return open_source(self.documents, self.text_column, label)

    def record(self, source_sha256: str) -> dict[str, Any]:
        """Return the fields that decide the table."""
        return {
            "source_sha256": source_sha256,
            "text_column": self.text_column,
            "tokenizer_sha256": self.tokenizer_sha256,
            "prefix_token_ids": list(self.prefix),
            "prompt_tokens": self.prompt_tokens,
        }


def prepare_prompts(source: PromptSource, folder: Path) -> PromptTable:
    """Return the table in `folder`; make it from `source` if it does not exist.

    An existing table is compared with `source`, and made again only if a file of it is damaged.
    Raises UsageError for unusable documents, PlanMismatch if the table has another origin,
    StorageError.
    """
    if source.prompt_tokens < 1:
        raise UsageError(f"--prompt-tokens: expected 1 or more, got {source.prompt_tokens}")
    documents = source.open()
    origin = source.record(documents.sha256())
    if not (folder / PROMPT_RECORD).exists():
        _write_table(source, documents, origin, folder)
    _require_origin(folder, origin)
    try:
        return open_table(folder)
    except StorageError as error:
        print(error, file=sys.stderr)
        return _made_again(source, documents, origin, folder)


def _made_again(
    source: PromptSource, documents: DocumentSource, origin: dict[str, Any], folder: Path
) -> PromptTable:
    """Make a damaged table again, unless another process has done so while this one waited."""
    with lock(folder / "again.lock"):
        with suppress(StorageError):
            return open_table(folder)
        _write_table(source, documents, origin, folder)
    return open_table(folder)


def first_prompts(source: PromptSource, count: int) -> list[list[int]]:
    """Return the token ids of the first `count` prompts, or of all if there are fewer. Raises
    UsageError for unusable documents, or if there is none."""
    documents = source.open()
    prompts = islice(_prompts(source, documents, SpecialMarks(source.tokenizer)), count)
    if not (found := [ids for _, ids in prompts]):
        raise _no_prompt(documents)
    return found


def open_table(folder: Path) -> PromptTable:
    """Open the table that `prepare_prompts` made. Raises StorageError if it is damaged."""
    record = read_record(folder / PROMPT_RECORD)
    fields = {name: record.get(name) for name in PromptPlan.model_fields}
    plan = parse_stored(PromptPlan, fields, folder / PROMPT_RECORD, "record of prompts")
    files = {_TOKENS: plan.tokens_sha256, ORIGINS: record.get("origins_sha256")}
    for name, sha256 in files.items():
        path = folder / name
        if sha256 and not (path.is_file() and sha256_of(path) == sha256):
            raise StorageError(
                f"{path} is damaged: its sha256 is not the one in {PROMPT_RECORD}. The same"
                " generate command makes it again."
            )
    expected = np.dtype("<i4").itemsize * plan.count * plan.prompt_tokens
    if (size := (folder / _TOKENS).stat().st_size) != expected:
        raise StorageError(f"{folder / _TOKENS} is damaged: {size} bytes, expected {expected}.")
    return PromptTable(folder / _TOKENS, plan)


def _write_table(
    source: PromptSource, documents: DocumentSource, origin: dict[str, Any], folder: Path
) -> None:
    """Write tokens and origins side by side, then the record; say what was read."""
    count, origins_sha256 = 0, ""
    marks = SpecialMarks(source.tokenizer)

    def write_tokens(tokens: BinaryIO) -> None:
        nonlocal origins_sha256
        written = write_atomic(folder / ORIGINS, lambda origins: write_both(tokens, origins))
        origins_sha256 = written.sha256

    def write_both(tokens: BinaryIO, origins: BinaryIO) -> None:
        nonlocal count
        for place, ids in _prompts(source, documents, marks):
            tokens.write(padded_ids(ids, source.prompt_tokens))
            line = json.dumps({"prompt_id": count, **place}, default=str)
            origins.write(f"{line}\n".encode())
            count += 1
        if not count:
            raise _no_prompt(documents)

    tokens_sha256 = write_atomic(folder / _TOKENS, write_tokens).sha256
    made = {"tokens_sha256": tokens_sha256, "origins_sha256": origins_sha256, "count": count}
    write_record(folder / PROMPT_RECORD, {**origin, **made})
    documents.say(f"{count:,} prompts", *marks.notes(), *source.notes)


def _no_prompt(documents: DocumentSource) -> UsageError:
    return UsageError(f"{documents.label}: no prompt in it, only blank lines or nothing.")


def padded_ids(ids: Sequence[int], length: int) -> bytes:
    """Return the bytes of a prompt in the table: `length` int32, the last of them padding."""
    row = np.full(length, _PADDING, dtype="<i4")
    row[: len(ids)] = ids
    return row.tobytes()


def _prompts(
    source: PromptSource, documents: DocumentSource, marks: SpecialMarks
) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Yield where each prompt comes from, and its tokens."""
    rows, again = tee(documents.documents(others=("id",)))
    texts = (marks.seen(row.text) for _, row in rows)
    prompts = first_tokens(texts, source.tokenizer, source.prefix, source.prompt_tokens)
    for (part, row), ids in zip(again, prompts, strict=True):
        if ids:
            yield {"file": part.name, "row": row.number, **_own(row.others)}, ids
        else:
            documents.left_out["texts without a token"] += 1


def _own(others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row's own `id` in a type of JSON, which has no NaN."""
    finite = (int, str, dict, list)
    return {name: v if isinstance(v, finite) else str(v) for name, v in others.items()}


def _require_origin(folder: Path, origin: dict[str, Any]) -> None:
    """Raise PlanMismatch, with every difference, if the table was made from something else."""
    record = _with_later_fields(read_record(folder / PROMPT_RECORD))
    changed = [name for name, value in origin.items() if record.get(name) != value]
    if not changed:
        return
    values = "; ".join(f"{name}: was {record.get(name)}, now {origin[name]}" for name in changed)
    advice = "Use the earlier values to resume this corpus, or choose another --out."
    if changed == ["tokenizer_sha256"]:
        advice += (
            " If the tokenizer is the same, an older cdgen recorded another hash of it: resume"
            " with that cdgen."
        )
    raise PlanMismatch(f"{folder} holds prompts of another origin: {values}.\n{advice}")


def _with_later_fields(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of an older cdgen with the fields that it lacks."""
    bos = record.get("bos_token_id")
    return {"text_column": "text", "prefix_token_ids": [] if bos is None else [bos]} | record
