"""The prompt table: the first tokens of each document, in a memory-mapped file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from cdgen.corpus.documents import hash_source, read_documents
from cdgen.corpus.first_tokens import first_tokens
from cdgen.corpus.plan import PromptPlan
from cdgen.errors import PlanMismatch, StorageError, UsageError
from cdgen.storage import read_record, sha256_of, write_atomic, write_record

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_RECORD, _TOKENS = "prompts.json", "tokens.bin"
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
    """The origin of prompts: the first `prompt_tokens` tokens of [BOS] + each document."""

    documents: str  # as --prompts names them
    tokenizer: Tokenizer
    tokenizer_sha256: str  # `checkpoints.pair.tokenizer_sha256`, as in the plan
    bos_token_id: int | None
    prompt_tokens: int

    def record(self) -> dict[str, Any]:
        """Return the fields that decide the table. Raises UsageError for unusable documents."""
        return {
            "source_sha256": hash_source(self.documents),
            "tokenizer_sha256": self.tokenizer_sha256,
            "bos_token_id": self.bos_token_id,
            "prompt_tokens": self.prompt_tokens,
        }


def prepare_prompts(source: PromptSource, folder: Path) -> PromptTable:
    """Return the table in `folder`; make it from `source` if it does not exist.

    An existing table is compared with `source` and not made again. Raises UsageError for unusable
    documents, PlanMismatch if the table has another origin, StorageError.
    """
    if source.prompt_tokens < 1:
        raise UsageError(f"--prompt-tokens: expected 1 or more, got {source.prompt_tokens}")
    origin = source.record()
    if not (folder / _RECORD).exists():
        _write_table(source, origin, folder)
    _require_origin(folder, origin)
    return open_table(folder)


def open_table(folder: Path) -> PromptTable:
    """Open the table that `prepare_prompts` made. Raises StorageError if it is damaged."""
    record = read_record(folder / _RECORD)
    plan = PromptPlan.model_validate({name: record[name] for name in PromptPlan.model_fields})
    path = folder / _TOKENS
    if not path.is_file() or sha256_of(path) != plan.tokens_sha256:
        raise StorageError(f"{path} is damaged: its sha256 is not the one in {_RECORD}.")
    return PromptTable(path, plan)


def _write_table(source: PromptSource, origin: dict[str, Any], folder: Path) -> None:
    documents = read_documents(source.documents)
    prompts = first_tokens(documents, source.tokenizer, source.bos_token_id, source.prompt_tokens)
    count = 0

    def write(file: BinaryIO) -> None:
        nonlocal count
        count = _write_prompts(file, prompts, source.prompt_tokens)
        if not count:
            raise UsageError(
                f"--prompts {source.documents}: no prompt in it, only blank lines or nothing."
            )

    written = write_atomic(folder / _TOKENS, write)
    write_record(folder / _RECORD, {**origin, "tokens_sha256": written.sha256, "count": count})


def _write_prompts(file: BinaryIO, prompts: Iterable[list[int]], width: int) -> int:
    """Write the rows of the table; return their number."""
    count = 0
    for prompt in prompts:
        row = np.full(width, _PADDING, dtype="<i4")
        row[: len(prompt)] = prompt
        file.write(row.tobytes())
        count += 1
    return count


def _require_origin(folder: Path, origin: dict[str, Any]) -> None:
    """Raise PlanMismatch, with every difference, if the table was made from something else."""
    record = read_record(folder / _RECORD)
    changed = [name for name, value in origin.items() if record[name] != value]
    if not changed:
        return
    values = "; ".join(f"{name}: was {record[name]}, now {origin[name]}" for name in changed)
    advice = "Use the earlier values to resume this corpus, or choose another --out."
    if changed == ["tokenizer_sha256"]:
        advice += (
            " If the tokenizer is the same, an older cdgen recorded another hash of it: resume"
            " with that cdgen."
        )
    raise PlanMismatch(f"{folder} holds prompts of another origin: {values}.\n{advice}")
