"""The split into training, prompts and validation, by document.

The part of a document is a function of the seed and of its text, or of the work that it belongs to.
So every stage finds the same parts, whatever the order of files and the other sources. If sources
with different shares, or two works, hold one text, it is held out if any of them holds it out:
validation takes precedence over prompts, prompts over training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cdgen.errors import UsageError
from cdgen.train.config import Source
from cdgen.train.data.documents import Document, split_long_text

_PROMPT_WORDS = 100  # Ulm et al. 2025: longer documents become several prompts, of 100 to 200 words


@dataclass(frozen=True)
class Parts:
    """The documents of a source by their use: to train on, to prompt with, to measure the loss."""

    train: list[Document] = field(default_factory=list)
    prompts: list[Document] = field(default_factory=list)
    validation: list[Document] = field(default_factory=list)


class _HeldOut:
    """The texts and works of documents that are held out."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.texts: set[str] = set()
        self.works: set[str] = set()
        for document in documents:
            self.texts.add(document.text)
            self.works.add(document.work)
        self.works.discard("")

    def without(self, documents: Sequence[Document]) -> list[Document]:
        """Return the documents that share no text and no work with these."""
        return [d for d in documents if d.text not in self.texts and d.work not in self.works]


def split_sources(
    sources: Sequence[tuple[Source, Sequence[Document]]], seed: int
) -> tuple[dict[str, Parts], int]:
    """Return the parts of every source by name, and the number of documents that were dropped
    because they are held out elsewhere. Raises UsageError if that leaves a requested part empty."""
    dealt = {source.name: split_documents(found, source, seed) for source, found in sources}
    in_validation = _HeldOut(d for parts in dealt.values() for d in parts.validation)
    prompts_of = {name: in_validation.without(parts.prompts) for name, parts in dealt.items()}
    in_prompts = _HeldOut(d for prompts in prompts_of.values() for d in prompts)
    kept, left_out = {}, 0
    for name, parts in dealt.items():
        prompts = prompts_of[name]
        train = in_prompts.without(in_validation.without(parts.train))
        if not train or (parts.prompts and not prompts):
            raise UsageError(
                f"source {name}: all its documents for {'prompts' if train else 'training'} are"
                " held out by other sources; give them the same shares, or take one out"
            )
        left_out += len(parts.prompts) - len(prompts) + len(parts.train) - len(train)
        kept[name] = Parts(train, prompts, parts.validation)
    return kept, left_out


def split_documents(documents: Sequence[Document], source: Source, seed: int) -> Parts:
    """Split the documents of one source. Raises UsageError if a requested part would have no
    document."""
    parts = Parts()
    for document in documents:
        place = _place(document, seed)
        # The two parts are taken from the two ends, so changing one share does not touch the other.
        if place < source.validation:
            parts.validation.append(document)
        elif place >= 1 - source.prompts:
            parts.prompts.append(document)
        else:
            parts.train.append(document)
    asked = {"train": 1.0, "prompts": source.prompts, "validation": source.validation}
    if empty := [name for name, share in asked.items() if share and not getattr(parts, name)]:
        works = len({document.identity for document in documents})
        raise UsageError(
            f"source {source.name}: none of its {works} documents or works falls to"
            f" {' or '.join(empty)}; correct its shares (validation {source.validation:g}, prompts"
            f" {source.prompts:g}; 0: none) or give it more text"
        )
    return parts


def _place(document: Document, seed: int) -> float:
    """Return a number in [0, 1) that is uniform over documents."""
    identity = f"{seed}\0{document.identity}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(identity, digest_size=6).digest()) / 2**48


def prompt_lines(prompts: Mapping[str, Sequence[Document]]) -> bytes:
    """Return JSON lines of source and text for `cdgen generate --prompts`."""
    return _lines(
        (name, piece)
        for name, documents in prompts.items()
        for document in documents
        for piece in split_long_text(document.text, _PROMPT_WORDS)
    )


def validation_lines(held_out: Mapping[str, Sequence[Document]]) -> bytes:
    """Return JSON lines of source and text, one per document, for the task `perplexity`."""
    return _lines((name, d.text) for name, documents in held_out.items() for d in documents)


def _lines(texts: Iterable[tuple[str, str]]) -> bytes:
    rows = (json.dumps({"source": s, "text": t}, ensure_ascii=False) + "\n" for s, t in texts)
    return "".join(rows).encode()
