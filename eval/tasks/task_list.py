"""Which tasks there are, and how a folder of evaluation data becomes one of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cdgen.checkpoints.checkpoint import CONTEXT_KEYS
from cdgen.errors import UsageError
from cdgen.eval.scoring.spans import SpanEncoder
from cdgen.eval.summary import Mode
from cdgen.eval.tasks.choices import Choices
from cdgen.eval.tasks.items import task_named
from cdgen.eval.tasks.perplexity import Perplexity
from cdgen.eval.tasks.reading import Reading, read_rows
from cdgen.storage import sha256_of

Prepared = Choices | Reading | Perplexity  # tokenized items that make rows from a scorer

_KINDS = "blimp*, supplement*, ewok*, entity_tracking*, comps*, wug_*, reading, perplexity, glue*"


def is_fine_tuned(name: str) -> bool:
    return name.startswith("glue")


def require_known(name: str) -> None:
    """Raises UsageError where no kind of task has a folder of this name."""
    known = task_named(name) is not None or name in ("reading", "perplexity")
    if not known and not is_fine_tuned(name):
        raise UsageError(f"--tasks {name}: unknown; a task has its data folder's name: {_KINDS}")


def tasks_in(data: Path) -> list[str]:
    """The zero-shot tasks whose folders lie in `data`."""
    try:
        folders = sorted(path.name for path in data.iterdir() if path.is_dir())
    except OSError as error:
        raise UsageError(f"--data {data} cannot be read: {error.strerror}") from error
    return [n for n in folders if task_named(n) or n in ("reading", "perplexity")]


def prepare(name: str, data: Path, encoder: SpanEncoder, mode: Mode) -> Prepared:
    """Reads and tokenizes a task. Raises UsageError naming file and line."""
    folder = data / name
    if (task := task_named(name)) is not None:
        return Choices.load(name, folder, task, encoder)
    if name == "reading":
        return Reading(read_rows(folder / "reading_data.csv"), encoder, mode)
    return Perplexity.load(folder, encoder)


def context_length(config: dict[str, Any]) -> int | None:
    """In tokens, as a model's config.json states it."""
    return next((config[key] for key in CONTEXT_KEYS if config.get(key)), None)


def longest_text(config: dict[str, Any], mode: Mode) -> int | None:
    """How many tokens of a text a model with this config.json is given; None is no limit.

    Rotary and relative positions run on past the length a model was trained for, and the BabyLM
    pipeline lets them; learned positions end.
    """
    positions = context_length(config)
    learned = not any(key in config for key in ("rope_parameters", "rope_theta", "rotary_pct"))
    return positions if learned or not mode.pipeline_spans else None


def data_sha256(folder: Path) -> str:
    """Of the names and contents of the files in a task's folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()
