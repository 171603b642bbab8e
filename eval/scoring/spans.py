"""Texts as token sequences, and which tokens of each are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from cdgen.checkpoints.pretrained import load_pretrained_tokenizer
from cdgen.checkpoints.text_prefix import prefix_of
from cdgen.eval.scoring.trie import Trie, build_trie

_WINDOW = 2048  # for models that state no context length
_TEXTS_AT_ONCE = 1024  # texts encoded at a time; bounds memory


@dataclass(frozen=True)
class Spans:
    """n token sequences laid end to end, and the first and last token of each that is scored."""

    tokens: np.ndarray  # [T] int32
    offsets: np.ndarray  # [n + 1] int64: sequence i is tokens[offsets[i] : offsets[i + 1]]
    first: np.ndarray  # [n] int64, at least 1: a sequence's first token has no context
    last: np.ndarray  # [n] int64; below `first` if no token is scored
    cut: int = 0  # sequences that lost their beginning to the model's context length

    def __len__(self) -> int:
        return len(self.first)

    @property
    def lengths(self) -> np.ndarray:  # [n] int64
        return np.diff(self.offsets)

    def sequence(self, index: int) -> np.ndarray:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @cached_property
    def trie(self) -> Trie:
        return build_trie(self.tokens, self.offsets, self.first, self.last)


def spans_of(
    sequences: Sequence[np.ndarray],  # n sequences of one or more int32 token ids
    first: np.ndarray,  # [n] int64
    longest: int | None = None,
) -> Spans:
    """Score all tokens from `first` on; a sequence above `longest` tokens keeps only its end."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    lost = np.maximum(lengths - longest, 0) if longest else np.zeros_like(lengths)
    kept = [sequence[gone:] for sequence, gone in zip(sequences, lost.tolist(), strict=True)]
    lengths -= lost
    return Spans(
        np.concatenate(kept),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.maximum(first - lost, 1),
        lengths - 1,
        int(np.count_nonzero(lost)),
    )


class SpanEncoder:
    """A checkpoint's tokenizer as `AutoTokenizer` sets it up, special tokens included.

    A sequence begins with whatever the tokenizer puts before every text, usually BOS. If that is
    nothing, `always_prefix` puts BOS (or else EOS) there, so that the first token is scored too;
    without it, the first token is not scored, as in the BabyLM pipeline. Special tokens after the
    text are left out: they have no part in its probability. Texts above `longest` tokens lose
    their beginning; `window` is the length of the pieces in `windows`.
    """

    def __init__(
        self, folder: Path, always_prefix: bool, longest: int | None, window: int | None = None
    ) -> None:
        wrapped = load_pretrained_tokenizer(folder)
        self.decode: Callable[[list[int]], Any] = wrapped.decode
        self.tokenizer: Tokenizer = wrapped.backend_tokenizer
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        ends = (wrapped.bos_token_id, wrapped.eos_token_id)
        self.document_ends = [[] if token is None else [token] for token in ends]
        self.prefix = prefix_of(self.tokenizer)
        if not self.prefix and always_prefix:
            self.prefix = [token for end in self.document_ends for token in end][:1]
        self.longest = longest
        self.window = window or longest or _WINDOW

    def token_ids(self, text: str) -> list[int]:
        """Return the tokens of the text alone, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def whole(self, texts: list[str]) -> Spans:
        """Score all tokens of each text."""
        sequences = [
            self._sequence(encoding.ids)
            for part in _parts(texts)
            for encoding in self.tokenizer.encode_batch_fast(part, add_special_tokens=False)
        ]
        return self._spans(sequences, np.full(len(texts), len(self.prefix), np.int64))

    def endings(self, texts: list[str], starts: list[int]) -> Spans:
        """Score the tokens of each text that reach beyond its character `starts`."""
        sequences, first, at = [], [], iter(starts)
        for part in _parts(texts):
            for encoding in self.tokenizer.encode_batch(part, add_special_tokens=False):
                start = next(at)
                before = sum(end <= start for _, end in encoding.offsets)
                sequences.append(self._sequence(encoding.ids))
                first.append(len(self.prefix) + before)
        return self._spans(sequences, np.array(first, np.int64))

    def continuations(self, texts: list[str], tokens: list[int]) -> Spans:
        """Score the one token that follows each text."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        sequences = [
            self._sequence([*encoding.ids, token])
            for encoding, token in zip(encodings, tokens, strict=True)
        ]
        return self._spans(sequences, np.array([len(s) - 1 for s in sequences], np.int64))

    def windows(self, texts: list[str]) -> tuple[Spans, np.ndarray]:
        """Cut each text into windows of at most `window` tokens that all begin with the prefix, and
        score the rest. The array [windows] int64 holds the index of each window's text."""
        room = self.window - len(self.prefix)
        sequences, owners = [], []
        for index, text in enumerate(texts):
            ids = self.token_ids(text)
            for start in range(0, len(ids), room):
                sequences.append(self._sequence(ids[start : start + room]))
                owners.append(index)
        first = np.full(len(sequences), len(self.prefix), np.int64)
        return self._spans(sequences, first), np.array(owners, np.int64)

    def blocks(self, texts: list[str]) -> tuple[Spans, np.ndarray]:
        """Lay all texts end to end, each between BOS and EOS, cut that into blocks of `window`
        tokens, and score all but the first token of each block.

        A span is the part of one text in one block, and its sequence is the block up to there. The
        array [spans] int64 holds the index of each span's text.
        """
        before, after = self.document_ends
        documents = [[*before, *self.token_ids(text), *after] for text in texts]
        stream = np.array([token for document in documents for token in document], np.int32)
        ends = np.cumsum([len(document) for document in documents])
        cuts = np.unique([*ends, *range(self.window, len(stream), self.window)])
        starts = np.concatenate([[0], cuts[:-1]])
        block = starts // self.window * self.window
        sequences = [stream[start:end] for start, end in zip(block, cuts, strict=True)]
        owners = np.searchsorted(ends, starts, side="right")
        return self._spans(sequences, np.maximum(starts - block, 1)), owners

    def _sequence(self, ids: list[int]) -> np.ndarray:
        # Without prefix and text a model still needs some token; it is not scored.
        return np.array(self.prefix + ids or [0], np.int32)

    def _spans(self, sequences: list[np.ndarray], first: np.ndarray) -> Spans:
        return spans_of(sequences, first, self.longest)


def _parts(texts: list[str]) -> Iterator[list[str]]:
    return (texts[i : i + _TEXTS_AT_ONCE] for i in range(0, len(texts), _TEXTS_AT_ONCE))
