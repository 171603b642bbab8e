"""Encoding documents and packing them into blocks of tokens.

In a block, ~t (below 0) stands for token t that is read but not taught: padding, and the token
after a text that was cut off, which does not mark its end.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from cdgen.corpus.special_marks import text_encoder
from cdgen.train.data.documents import Document
from cdgen.train.data.tokenizer import SpecialIds

_ENCODED_AT_ONCE = 4096  # documents at a time: as Python integers, all tokens would take ten times


def encode(
    tokenizer: Tokenizer, special: SpecialIds, documents: Sequence[Document]
) -> list[np.ndarray]:
    """Encode documents with all threads: BOS, the text, and EOS unless the document was cut off."""
    tokenizer = text_encoder(tokenizer)
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
    """Join sequences end to end and cut them into [blocks, block_size] int32, padding the last
    block.

    A sequence that crosses a block boundary continues in the next block: no token is added or lost
    there. If one token both ends and begins a text, it stands once between two texts.
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
    blocks: torch.Tensor,  # [..., T] int64, from `pack`
) -> tuple[torch.Tensor, torch.Tensor]:  # [..., T]: token ids; labels, -100 for none
    return torch.where(blocks < 0, ~blocks, blocks), blocks.masked_fill(blocks < 0, -100)


def training_blocks(
    sequences_by_source: Sequence[tuple[Sequence[Sequence[int] | np.ndarray], int]],
    block_size: int,
    special: SpecialIds,
    seed: int,
) -> np.ndarray:
    """Return one epoch: the sequences of every (sequences, repeat) source, repeated, shuffled and
    packed."""
    sequences = [
        sequence
        for source, repeat in sequences_by_source
        for sequence in source
        for _ in range(repeat)
    ]
    random.Random(seed).shuffle(sequences)
    return pack(sequences, block_size, special)
