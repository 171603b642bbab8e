"""What a recipe trains on: tokenizer, one epoch of every stream, their mixture, held-out text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from cdgen.storage import lock, sha256_of, write_atomic
from cdgen.train.config import Recipe, Synthetic
from cdgen.train.data import encode, pack, training_blocks
from cdgen.train.mixture import Mixture, Share, shares_of
from cdgen.train.sources import corpus_texts, read_documents, source_sha256
from cdgen.train.splits import Parts, prompt_lines, split_documents
from cdgen.train.synthetic import manifest_sha256, synthetic_sequences
from cdgen.train.token_files import Tokens, reuse_or_build
from cdgen.train.tokenizer import (
    MADE,
    SpecialIds,
    SpecialNames,
    load_tokenizer,
    special_ids,
    special_names,
    tokenizer_file,
    tokenizer_from_json,
    train_sentencepiece,
    train_tokenizer,
)


@dataclass(frozen=True)
class Corpus:
    tokenizer: Tokenizer
    names: SpecialNames
    train: list[np.ndarray]  # per stream of the mixture, [blocks, block_size] int32: one epoch
    mixture: Mixture
    validation: dict[str, np.ndarray]  # per source, likewise
    words: dict[str, int]  # of every stream's training text, each document once

    @property
    def special(self) -> SpecialIds:
        return special_ids(self.tokenizer, self.names)


def build_corpus(recipe: Recipe, data_dir: Path, out: Path | None = None) -> Corpus:
    """With `out`: token files in out/tokens, made or reused, and the prompts in out/prompts.jsonl.

    Raises UsageError for sources, shares, tokenizer or corpora that cannot be used.
    """
    cache = out / "tokens" if out else None
    real = reuse_or_build(cache, _key(recipe, data_dir), lambda: _real(recipe, data_dir))
    if out and real.facts["prompts"]:
        _write_prompts(real.facts["prompts"].encode(), out)
    tokenizer = tokenizer_from_json(real.facts["tokenizer"])
    names = SpecialNames(**real.facts["special"])
    streams = {"real": real.arrays.pop("real")}
    words = {"real": real.facts["words"]}
    for corpus in recipe.synthetic.corpora if recipe.synthetic else ():
        made = _synthetic(recipe, corpus, tokenizer, names, cache)
        streams[corpus.name], words[corpus.name] = made.arrays["blocks"], made.facts["words"]
    mixture = new_mixture(recipe, {name: len(blocks) for name, blocks in streams.items()})
    return Corpus(tokenizer, names, list(streams.values()), mixture, real.arrays, words)


def _key(recipe: Recipe, data_dir: Path) -> dict[str, Any]:
    """All that decides the tokens of the real text."""
    made = recipe.tokenizer
    return {
        "sources": [
            {
                **source.model_dump(mode="json", exclude={"licence"}),
                "sha256": source_sha256(source, data_dir),
            }
            for source in recipe.sources
        ],
        "tokenizer": [sha256_of(tokenizer_file(made)), asdict(special_names(made))]
        if isinstance(made, Path)
        else made,
        "vocab_size": recipe.vocab_size,
        "block_size": recipe.block_size,
        "seed": recipe.seed,
    }


def _real(recipe: Recipe, data_dir: Path) -> Tokens:
    sources = {source.name: source for source in recipe.sources}
    parts = {
        name: split_documents(read_documents(source, data_dir), source, recipe.seed)
        for name, source in sources.items()
    }
    tokenizer, names = _tokenizer(recipe, parts)
    special, size = special_ids(tokenizer, names), recipe.block_size
    encoded = [
        (encode(tokenizer, special, parts[name].train), source.repeat)
        for name, source in sources.items()
    ]
    held_out = {
        name: pack(encode(tokenizer, special, p.validation), size, special)
        for name, p in parts.items()
    }
    return Tokens(
        {name: blocks for name, blocks in held_out.items() if len(blocks)}
        | {"real": training_blocks(encoded, size, special, recipe.seed)},
        {
            "tokenizer": tokenizer.to_str(),
            "special": asdict(names),
            "prompts": prompt_lines({name: p.prompts for name, p in parts.items()}).decode(),
            "words": sum(len(d.text.split()) for p in parts.values() for d in p.train),
        },
    )


def _tokenizer(recipe: Recipe, parts: Mapping[str, Parts]) -> tuple[Tokenizer, SpecialNames]:
    """Made from the training text, copies included, so that a source counts as it is trained on."""
    if isinstance(recipe.tokenizer, Path):
        return load_tokenizer(recipe.tokenizer, recipe.vocab_size)
    train = train_sentencepiece if recipe.tokenizer == "sentencepiece" else train_tokenizer
    repeats = {source.name: source.repeat for source in recipe.sources}
    texts = (d.text for name, p in parts.items() for d in p.train for _ in range(repeats[name]))
    return train(texts, recipe.vocab_size), MADE


def _write_prompts(content: bytes, out: Path) -> None:
    file = out / "prompts.jsonl"
    with lock(out / "tokens" / "prompts.lock"):
        if not file.exists() or file.read_bytes() != content:
            write_atomic(file, content)


def _synthetic(
    recipe: Recipe,
    corpus: Synthetic,
    tokenizer: Tokenizer,
    names: SpecialNames,
    cache: Path | None,
) -> Tokens:
    """One epoch of a corpus, in whole blocks: a last one of padding would dilute the share."""

    def build() -> Tokens:
        special = special_ids(tokenizer, names)
        sequences, again = synthetic_sequences(corpus.path, tokenizer, special)
        if again:
            print(f"{corpus.name}: another tokenizer's corpus, tokenized again from its text")
        blocks = training_blocks([(sequences, 1)], recipe.block_size, special, recipe.seed)
        words = sum(len(text.split()) for text, _ in corpus_texts(corpus.path))
        whole = blocks[:-1] if (blocks[-1:, -1] < 0).any() else blocks
        return Tokens({"blocks": whole}, {"words": words})

    key = {
        "manifest": manifest_sha256(corpus.path),
        "tokenizer": tokenizer.to_str(),
        "special": asdict(names),
        "block_size": recipe.block_size,
        "seed": recipe.seed,
    }
    return reuse_or_build(cache, key, build)


def new_mixture(recipe: Recipe, blocks: Mapping[str, int]) -> Mixture:
    mixing = recipe.synthetic
    if mixing is None:
        return Mixture([Share("real", Fraction(1), blocks["real"])], recipe.seed)
    corpora = [(c.name, blocks[c.name], Fraction(repr(c.weight))) for c in mixing.corpora]
    ratio = Fraction(repr(mixing.ratio))
    return Mixture(shares_of(ratio, ("real", blocks["real"]), corpora), recipe.seed)
