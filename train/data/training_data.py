"""The data of a recipe: tokenizer, one epoch of every stream, their mixture, held-out text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from cdgen.corpus.special_marks import SpecialMarks
from cdgen.storage import lock, remove_file, write_atomic
from cdgen.train.budget import Text
from cdgen.train.config import Recipe, Source, Synthetic
from cdgen.train.data.documents import Document
from cdgen.train.data.holdout import Parts, prompt_lines, split_sources, validation_lines
from cdgen.train.data.mixture import Mixture, Share, shares_of
from cdgen.train.data.packing import encode, pack, training_blocks
from cdgen.train.data.sources import (
    corpus_texts,
    is_synthetic,
    read_documents,
    source_sha256,
)
from cdgen.train.data.synthetic import ended, manifest_sha256, synthetic_sequences
from cdgen.train.data.token_files import Tokens, reuse_or_build
from cdgen.train.data.tokenizer import (
    MADE,
    SpecialIds,
    SpecialNames,
    for_transformers,
    load_tokenizer,
    special_ids,
    tokenizer_from_json,
    tokenizer_identity,
    train_sentencepiece,
    train_tokenizer,
)
from cdgen.train.data.words import count_words
from cdgen.words import split_words


@dataclass(frozen=True)
class TrainingData:
    """What the training loop reads. A stream is the real text, or one synthetic corpus."""

    tokenizer: Tokenizer
    names: SpecialNames
    train: list[np.ndarray]  # per stream of the mixture, [blocks, block_size] int32: one epoch
    mixture: Mixture
    validation: dict[str, np.ndarray]  # per source, in the same form
    texts: dict[str, Text]  # training text by source and by corpus of `cdgen generate`
    epoch_words: list[int]  # per stream, the words in one epoch

    @property
    def special(self) -> SpecialIds:
        return special_ids(self.tokenizer, self.names)

    def pretrained_tokenizer(self, max_length: int) -> PreTrainedTokenizerFast:
        return for_transformers(self.tokenizer, max_length, self.names)


def build_training_data(recipe: Recipe, data_dir: Path, out: Path | None = None) -> TrainingData:
    """Build the training data. With `out`, token files are made or reused in out/tokens, and the
    prompts are written to out/prompts.jsonl, the held-out text to out/validation.jsonl.

    Raises UsageError for sources, shares, a tokenizer or corpora that cannot be used.
    """
    cache = out / "tokens" if out else None
    sources = {source.name: source_sha256(source, data_dir) for source in recipe.sources}
    named = recipe.tokenizer
    key = real_key(recipe, sources, tokenizer_identity(named) if isinstance(named, Path) else named)
    real = reuse_or_build(cache, key, lambda: _build_real(recipe, data_dir))
    tokenizer = tokenizer_from_json(real.facts["tokenizer"])
    names = SpecialNames(**real.facts["special"])
    streams = {"real": real.arrays.pop("real")}
    texts = {name: Text(name, **facts) for name, facts in real.facts["texts"].items()}
    epoch_words = [real.facts["epoch_words"]]
    for corpus in recipe.synthetic.corpora if recipe.synthetic else ():
        made = _synthetic_tokens(recipe, corpus, tokenizer, names, cache)
        streams[corpus.name] = made.arrays["blocks"]
        texts[corpus.name] = Text(corpus.name, **made.facts["text"])
        epoch_words.append(made.facts["epoch_words"])
    mixture = new_mixture(recipe, {name: len(blocks) for name, blocks in streams.items()})
    if out:
        for name in ("prompts", "validation"):
            _write_lines(real.facts[name].encode(), out / f"{name}.jsonl")
    return TrainingData(
        tokenizer,
        names,
        train=list(streams.values()),
        mixture=mixture,
        validation=real.arrays,
        texts=texts,
        epoch_words=epoch_words,
    )


def real_key(recipe: Recipe, sources: Mapping[str, str], tokenizer: str) -> dict[str, Any]:
    """Return everything that decides the tokens of the real text: `sources` has their hashes,
    `tokenizer` is the kind, or the identity of an existing one."""
    return {
        "sources": [
            {
                **source.model_dump(mode="json", exclude={"licence"}),
                "sha256": sources[source.name],
            }
            for source in recipe.sources
        ],
        "tokenizer": tokenizer,
        "vocab_size": recipe.vocab_size,
        "block_size": recipe.block_size,
        "seed": recipe.seed,
        "split_seed": recipe.holdout_seed,
        "kept_texts": ["prompts", "validation"],
    }


def _build_real(recipe: Recipe, data_dir: Path) -> Tokens:
    """Read, split, encode and pack the real text; report how many documents were left out."""
    read = [(source, read_documents(source, data_dir)) for source in recipe.sources]
    parts, left_out = split_sources(read, recipe.holdout_seed)
    if left_out:
        print(f"{left_out:,} documents are left out: their text is held out under another source")
    tokenizer, names = _make_tokenizer(recipe, parts)
    _report_marks(read, tokenizer)
    special, size = special_ids(tokenizer, names), recipe.block_size
    encoded = [
        (encode(tokenizer, special, parts[source.name].train), source.repeat)
        for source in recipe.sources
    ]
    blocks = training_blocks(encoded, size, special, recipe.seed)
    held_out = {
        name: pack(encode(tokenizer, special, p.validation), size, special)
        for name, p in parts.items()
    }
    return Tokens(
        {name: blocks for name, blocks in held_out.items() if len(blocks)} | {"real": blocks},
        {
            "tokenizer": tokenizer.to_str(),
            "special": asdict(names),
            "prompts": prompt_lines({name: p.prompts for name, p in parts.items()}).decode(),
            "validation": validation_lines(
                {name: p.validation for name, p in parts.items()}
            ).decode(),
            "texts": {
                source.name: _text_facts(parts[source.name].train, is_synthetic(source, data_dir))
                for source in recipe.sources
            },
            "epoch_words": count_words(tokenizer, names, blocks),
        },
    )


def _report_marks(read: Iterable[tuple[Source, Iterable[Document]]], tokenizer: Tokenizer) -> None:
    for source, documents in read:
        marks = SpecialMarks(tokenizer)
        for document in documents:
            marks.seen(document.text)
        for note in marks.notes():
            print(f"source {source.name}: {note}; `split: {source.split}` divides its documents")


def _text_facts(documents: Iterable[Document], synthetic: bool) -> dict[str, Any]:
    """Return the facts of a text. Its hash is that of its documents, whatever their order, file or
    source."""
    digests, words = [], 0
    for document in documents:
        digests.append(hashlib.sha256(document.text.encode(errors="surrogatepass")).digest())
        words += len(split_words(document.text))
    sha256 = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    return Text("", sha256, words, synthetic, traced=not synthetic).facts


def _make_tokenizer(recipe: Recipe, parts: Mapping[str, Parts]) -> tuple[Tokenizer, SpecialNames]:
    """Load the recipe's tokenizer, or train it on the training text, copies included, so that every
    source has its weight in training."""
    if isinstance(recipe.tokenizer, Path):
        return load_tokenizer(recipe.tokenizer, recipe.vocab_size)
    train = train_sentencepiece if recipe.tokenizer == "sentencepiece" else train_tokenizer
    repeats = {source.name: source.repeat for source in recipe.sources}
    texts = (d.text for name, p in parts.items() for d in p.train for _ in range(repeats[name]))
    return train(texts, recipe.vocab_size), MADE


def _write_lines(content: bytes, file: Path) -> None:
    with lock(file.parent / "tokens" / "prompts.lock"):
        if not content:
            remove_file(file)  # left by a recipe that was corrected
        elif not file.exists() or file.read_bytes() != content:
            write_atomic(file, content)


def _synthetic_tokens(
    recipe: Recipe,
    corpus: Synthetic,
    tokenizer: Tokenizer,
    names: SpecialNames,
    cache: Path | None,
) -> Tokens:
    """Return one epoch of a corpus, from `cache` if it is there."""
    manifest = manifest_sha256(corpus.path)
    key = {
        "manifest": manifest,
        "tokenizer": tokenizer.to_str(),
        "special": asdict(names),
        "block_size": recipe.block_size,
        "seed": recipe.seed,
        "false_ends": corpus.false_ends,
    }

    def build() -> Tokens:
        blocks = _corpus_blocks(recipe, corpus, tokenizer, special_ids(tokenizer, names))
        words = sum(len(split_words(text)) for text, _ in corpus_texts(corpus.path))
        text = Text("", manifest, words, synthetic=True).facts
        epoch_words = count_words(tokenizer, names, blocks)
        return Tokens({"blocks": blocks}, {"text": text, "epoch_words": epoch_words})

    return reuse_or_build(cache, key, build)


def _corpus_blocks(
    recipe: Recipe, corpus: Synthetic, tokenizer: Tokenizer, special: SpecialIds
) -> np.ndarray:  # [blocks, block_size] int32
    """Encode a corpus into whole blocks: padding in a last block would dilute the corpus's share.
    Report whether its text was tokenized again."""
    sequences, notes = synthetic_sequences(corpus.path, tokenizer, special)
    for note in notes:
        print(f"{corpus.name}: {note}")
    if corpus.false_ends:
        sequences = [ended(sequence, special) for sequence in sequences]
    blocks = training_blocks([(sequences, 1)], recipe.block_size, special, recipe.seed)
    return blocks[:-1] if (blocks[-1:, -1] < 0).any() else blocks


def new_mixture(recipe: Recipe, blocks: Mapping[str, int]) -> Mixture:
    """Return the mixture of streams that have these numbers of blocks."""
    mixing = recipe.synthetic
    if mixing is None:
        return Mixture([Share("real", Fraction(1), blocks["real"])], recipe.seed)
    corpora = [(c.name, blocks[c.name], Fraction(repr(c.weight))) for c in mixing.corpora]
    ratio = Fraction(repr(mixing.ratio))
    return Mixture(shares_of(ratio, ("real", blocks["real"]), corpora), recipe.seed)
