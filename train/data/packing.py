"""From documents to blocks of tokens: encoding and packing.

In a block, ~t (below 0) stands for token t that is read but not taught: padding, and what follows a
text that was cut off, which is no sign of its end.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from cdgen.train.data.tokenizer import SpecialIds

_ENCODED_AT_ONCE = 4096  # documents: as Python integers, all tokens at once would take ten times


@dataclass(frozen=True)
class Document:
    text: str
    work: str = ""  # what the parts keep together, such as all chapters of a book
    complete: bool = True  # False: the text was cut off, so no end-of-text follows it

    @property
    def identity(self) -> str:
        return self.work or self.text


def encode(
    tokenizer: Tokenizer, special: SpecialIds, documents: Sequence[Document]
) -> list[np.ndarray]:
    """BOS, the text, and EOS unless the document was cut off; on all of the machine's threads."""
    sequences, begin = [], [] if special.bos is None else [special.bos]
    for start in range(0, len(documents), _ENCODED_AT_ONCE):
        batch = documents[start : start + _ENCODED_AT_ONCE]
        texts = [document.text for document in batch]
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for encoding, document in zip(encodings, batch, strict=True):
            tokens = [*begin, *encoding.ids] + [special.eos] * document.complete
            sequences.append(np.array(tokens, dtype=np.int32))
    return sequences


def pack(
    sequences: Sequence[Sequence[int] | np.ndarray], block_size: int, special: SpecialIds
) -> np.ndarray:
    """Sequences end to end, cut into [blocks, block_size] int32; padding fills up the last block.

    A sequence that crosses a block boundary goes on in the next block: no token is added there,
    none is lost. Where one token both ends and begins a text, it stands once between two.
    """
    count = sum(len(sequence) for sequence in sequences)
    padding = special.eos if special.pad is None else special.pad
    stream, at, ended = np.empty(count, dtype=np.int32), 0, True
    for sequence in sequences:
        if ended and at and special.bos == special.eos:
            sequence = sequence[1:]
        if not len(sequence):
            continue
        stream[at : at + len(sequence)] = sequence
        if not ended:
            stream[at] = ~stream[at]
        at += len(sequence)
        ended = sequence[-1] == special.eos
    blocks = np.full((-(-at // block_size), block_size), ~padding, dtype=np.int32)
    blocks.reshape(-1)[:at] = stream[:at]
    return blocks


def read_and_taught(
    blocks: torch.Tensor,  # [..., T] int64, as `pack` makes them
) -> tuple[torch.Tensor, torch.Tensor]:  # [..., T]: token ids; labels, -100 where none is taught
    return torch.where(blocks < 0, ~blocks, blocks), blocks.masked_fill(blocks < 0, -100)


def training_blocks(
    sequences_by_source: Sequence[tuple[Sequence[Sequence[int] | np.ndarray], int]],
    block_size: int,
    special: SpecialIds,
    seed: int,
) -> np.ndarray:
    """One epoch: every (sequences, repeat) source, its sequences repeated, all shuffled, packed."""
    sequences = [
        sequence
        for source, repeat in sequences_by_source
        for sequence in source
        for _ in range(repeat)
    ]
    random.Random(seed).shuffle(sequences)
    return pack(sequences, block_size, special)
