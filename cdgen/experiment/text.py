"""What the sources of an experiment hold: words to train on, and prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgen.errors import UsageError
from cdgen.experiment.layout import Layout
from cdgen.train.config import Source
from cdgen.train.data.holdout import prompt_lines, split_sources
from cdgen.train.data.sources import read_documents
from cdgen.words import split_words

TOKENS_PER_WORD = 1.4  # of English, with vocabularies of 4,096 to 32,000


@dataclass(frozen=True)
class Text:
    """The text of all sources, divided as training will divide it."""

    words: int  # in one epoch of training text
    prompts: int
    held_out: int  # documents to measure perplexity on
    problems: tuple[str, ...] = ()  # why it cannot be used


def text_of(sources: Sequence[Source], split_seed: int, data: Path, layout: Layout) -> Text:
    """Return what the sources hold, according to the base run if that has read them."""
    mixture = layout.base / "mixture.json"
    lines = [layout.base / f"{name}.jsonl" for name in ("prompts", "validation")]
    if not all(path.is_file() for path in (mixture, *lines)):
        return _read(sources, split_seed, data)
    texts = json.loads(mixture.read_bytes())["texts"]
    words = sum(source.repeat * texts[source.name]["words"] for source in sources)
    prompts, held_out = (path.read_bytes().count(b"\n") for path in lines)
    return Text(words, prompts, held_out)


def _read(sources: Sequence[Source], split_seed: int, data: Path) -> Text:
    read, problems = [], []
    for source in sources:
        try:
            read.append((source, read_documents(source, data)))
        except UsageError as error:
            problems.append(str(error))
    if problems:
        return Text(0, 0, 0, tuple(problems))
    try:
        parts, _ = split_sources(read, split_seed)
    except UsageError as error:
        return Text(0, 0, 0, (str(error),))
    words = sum(
        source.repeat * len(split_words(document.text))
        for source in sources
        for document in parts[source.name].train
    )
    prompts = prompt_lines({name: found.prompts for name, found in parts.items()})
    held_out = sum(len(found.validation) for found in parts.values())
    return Text(words, prompts.count(b"\n"), held_out)
