"""What a recipe trains on: tokenizer, one epoch of every stream, their mixture, held-out text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from cdgen.train.config import Recipe
from cdgen.train.data import encode, pack, read_documents, split_documents, training_blocks
from cdgen.train.mixture import Mixture, Share, shares_of
from cdgen.train.synthetic import synthetic_sequences
from cdgen.train.tokenizer import PAD_ID, train_tokenizer


@dataclass(frozen=True)
class Corpus:
    tokenizer: Tokenizer
    train: list[np.ndarray]  # per stream of the mixture, [blocks, block_size] int32: one epoch
    mixture: Mixture
    validation: dict[str, np.ndarray]  # per source, likewise


def build_corpus(recipe: Recipe, data_dir: Path) -> Corpus:
    train, held_out = [], {}
    for source in recipe.sources:
        documents = read_documents(source, data_dir)
        mine, theirs = split_documents(documents, source.validation, recipe.seed)
        train.append((mine, source.repeat))
        held_out[source.name] = theirs
    texts = (doc.text for docs, repeat in train for doc in docs for _ in range(repeat))
    tokenizer = train_tokenizer(texts, recipe.vocab_size)
    encoded = [(encode(tokenizer, docs), repeat) for docs, repeat in train]
    streams = {"real": training_blocks(encoded, recipe.block_size, recipe.seed)}
    streams |= synthetic_streams(recipe, tokenizer)
    return Corpus(
        tokenizer,
        list(streams.values()),
        new_mixture(recipe, {name: len(blocks) for name, blocks in streams.items()}),
        {name: pack(encode(tokenizer, docs), recipe.block_size) for name, docs in held_out.items()},
    )


def synthetic_streams(recipe: Recipe, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """One epoch of every corpus, in whole blocks: a last one of padding would dilute the share."""
    streams = {}
    for corpus in recipe.synthetic.corpora if recipe.synthetic else ():
        sequences, again = synthetic_sequences(corpus.path, tokenizer)
        if again:
            print(f"{corpus.name}: another tokenizer's corpus, tokenized again from its text")
        blocks = training_blocks([(sequences, 1)], recipe.block_size, recipe.seed)
        streams[corpus.name] = blocks[:-1] if (blocks[-1:] == PAD_ID).any() else blocks
    return streams


def new_mixture(recipe: Recipe, blocks: Mapping[str, int]) -> Mixture:
    mixing = recipe.synthetic
    if mixing is None:
        return Mixture([Share("real", Fraction(1), blocks["real"])], recipe.seed)
    corpora = [(c.name, blocks[c.name], Fraction(repr(c.weight))) for c in mixing.corpora]
    ratio = Fraction(repr(mixing.ratio))
    return Mixture(shares_of(ratio, ("real", blocks["real"]), corpora), recipe.seed)
