"""Counting the words that training has read, for BabyLM's milestones and budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
from tokenizers import Tokenizer

from cdgen.train.data.mixture import Mixture
from cdgen.train.data.tokenizer import SpecialNames
from cdgen.words import split_words

_BLOCKS_TOGETHER = 16
_PARTS_AT_ONCE = 256


def words_read(
    mixture: Mixture, epoch_words: Sequence[int], batch_blocks: int
) -> Callable[[int], int]:
    """Return a function from a number of steps to the words in them. Every stream has the mean
    density of words of its epoch."""
    # The mixture leaves out a share of 0.
    streams = zip(mixture.shares, epoch_words, strict=False)
    per_block = [words / share.blocks for share, words in streams]

    def words(steps: int) -> int:
        sequences = mixture.counts(steps * batch_blocks)
        return round(sum(n * each for n, each in zip(sequences, per_block, strict=True)))

    return words


def count_words(tokenizer: Tokenizer, names: SpecialNames, blocks: np.ndarray) -> int:
    """Count words, which end at the end of a document too; `blocks` are read end to end."""
    special = [name for name in asdict(names).values() if name]
    blocks = np.where(blocks < 0, ~blocks, blocks)
    # A word that two parts share counts twice: one in thousands, which allows the use of all cores.
    parts = [
        blocks[start : start + _BLOCKS_TOGETHER].ravel().tolist()
        for start in range(0, len(blocks), _BLOCKS_TOGETHER)
    ]
    count = 0
    for start in range(0, len(parts), _PARTS_AT_ONCE):
        texts = tokenizer.decode_batch(
            parts[start : start + _PARTS_AT_ONCE], skip_special_tokens=False
        )
        for text in texts:
            for name in special:
                text = text.replace(name, " ")
            count += len(split_words(text))
    return count
