"""From documents to blocks of tokens: encoding and packing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from cdgen.train.tokenizer import special_ids

_ENCODED_AT_ONCE = 4096  # documents: as Python integers, all tokens at once would take ten times


@dataclass(frozen=True)
class Document:
    text: str
    work: str = ""  # what the parts keep together, such as all chapters of a book
    complete: bool = True  # False: the text was cut off, so no end-of-text follows it

    @property
    def identity(self) -> str:
        return self.work or self.text


def encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[np.ndarray]:
    """BOS, the text, and EOS unless the document was cut off; on all of the machine's threads."""
    special = special_ids(tokenizer)
    sequences = []
    for start in range(0, len(documents), _ENCODED_AT_ONCE):
        batch = documents[start : start + _ENCODED_AT_ONCE]
        texts = [document.text for document in batch]
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for encoding, document in zip(encodings, batch, strict=True):
            tokens = [special.bos, *encoding.ids] + [special.eos] * document.complete
            sequences.append(np.array(tokens, dtype=np.int32))
    return sequences


def pack(sequences: Sequence[Sequence[int] | np.ndarray], block_size: int, pad: int) -> np.ndarray:
    """Sequences end to end, cut into [blocks, block_size] int32; `pad` fills up the last block.

    A sequence that crosses a block boundary goes on in the next block: no token is added there,
    none is lost.
    """
    count = sum(len(sequence) for sequence in sequences)
    blocks = np.full((-(-count // block_size), block_size), pad, dtype=np.int32)
    stream, at = blocks.reshape(-1), 0
    for sequence in sequences:
        stream[at : at + len(sequence)] = sequence
        at += len(sequence)
    return blocks


def training_blocks(
    sequences_by_source: Sequence[tuple[Sequence[Sequence[int] | np.ndarray], int]],
    block_size: int,
    pad: int,
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
    return pack(sequences, block_size, pad)
