"""Tokenized tasks, shared by all checkpoints of a run that have the same tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdgen.checkpoints.pretrained import read_config
from cdgen.corpus.special_marks import text_encoder
from cdgen.errors import UsageError
from cdgen.eval.modes import Mode
from cdgen.eval.scoring.spans import SpanEncoder
from cdgen.eval.tasks.task_list import ZeroShotTask, context_length, load_task, longest_text


@dataclass
class TokenizedTasks:
    """The tasks in the tokens of one tokenizer, read when they are first asked for."""

    data: Path
    mode: Mode
    encoder: SpanEncoder
    _loaded: dict[str, ZeroShotTask | UsageError] = field(default_factory=dict)

    def load(self, name: str, kind: str) -> ZeroShotTask | UsageError:
        """Return a task, or the error that its data raise: also for the next checkpoint."""
        if name not in self._loaded:
            try:
                self._loaded[name] = load_task(name, kind, self.data, self.encoder, self.mode)
            except UsageError as error:
                self._loaded[name] = error
        return self._loaded[name]


@dataclass
class TaskCache:
    """The tokenized tasks of every tokenizer met so far."""

    data: Path
    mode: Mode
    _tokenized: dict[tuple[str, int | None, int | None], TokenizedTasks] = field(
        default_factory=dict
    )

    def of(self, folder: Path, tokenizer: str) -> TokenizedTasks:
        """Return the tasks for the checkpoint in `folder`; `tokenizer` is its tokenizer's hash.

        Raises ModelError if its config.json or tokenizer cannot be used.
        """
        config = read_config(folder).to_dict()
        key = (tokenizer, longest_text(config, self.mode), context_length(config))
        if key not in self._tokenized:
            encoder = new_encoder(folder, config, self.mode)
            self._tokenized[key] = TokenizedTasks(self.data, self.mode, encoder)
        return self._tokenized[key]


def new_encoder(folder: Path, config: dict[str, Any], mode: Mode) -> SpanEncoder:
    """Return the encoder of a checkpoint with this config.json, by the rules of a mode."""
    longest, window = longest_text(config, mode), context_length(config)
    encoder = SpanEncoder(folder, mode.always_prefix, longest, window)
    if mode.text_is_text:
        encoder.tokenizer = text_encoder(encoder.tokenizer)
    return encoder
