"""The checkpoints and prompts that every engine of bench_engines.py is given."""

from __future__ import annotations

import itertools
import random
import string
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PROMPTS = 8  # of 8 sequences each, as `cdgen generate` writes them by default


def byte_pairs_tokenizer(vocabulary: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer of `vocabulary` tokens: the 256 bytes and pairs of them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [c for c in alphabet if c in string.ascii_letters]  # first, to shorten English
    rest = [c for c in alphabet if c not in string.ascii_letters]
    pairs = itertools.product(letters + rest, letters + rest)
    merges = list(itertools.islice(pairs, vocabulary - 256))
    tokens = {token: i for i, token in enumerate([*alphabet, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(tokens, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_checkpoint(model: Any, folder: Path) -> None:
    """Write a Hugging Face folder that every engine reads, its tokenizer included."""
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=byte_pairs_tokenizer(model.config.vocab_size)
    ).save_pretrained(folder)


def write_prompts(file: Path, vocabulary: int, tokens: int) -> list[list[int]]:
    """Write documents of random letters, one a line, and return the first `tokens` ids of each."""
    tokenizer = byte_pairs_tokenizer(vocabulary)
    draw = random.Random(0)
    texts = ["".join(draw.choices(string.ascii_letters, k=4 * tokens)) for _ in range(PROMPTS)]
    file.write_text("\n".join(texts) + "\n")
    return [tokenizer.encode(text).ids[:tokens] for text in texts]
