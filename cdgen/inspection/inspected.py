"""One inspected sequence, from a text or from a row of a corpus: its tokens and their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan
from cdgen.inspection.corpus import InspectedCorpus, open_corpus
from cdgen.inspection.pieces import Piece, TokenTexts
from cdgen.inspection.positions import Position, TokenSequence
from cdgen.inspection.reader import SequenceReader
from cdgen.inspection.strategies import STRATEGIES, Strategies
from cdgen.inspection.text import InspectedText, open_text


@dataclass(frozen=True)
class Part:
    """A stretch of the text, with its title, if it has one."""

    title: str
    pieces: Sequence[Piece]


@dataclass(frozen=True)
class Inspected:
    """A sequence with the records of all its tokens but the first."""

    subject: str
    sequence: TokenSequence
    plan: Plan
    pair: Pair
    strategies: Strategies
    positions: Sequence[Position]
    notes: tuple[str, ...]  # for the user

    @cached_property
    def texts(self) -> TokenTexts:
        return TokenTexts(self.pair.tokenizer)

    @cached_property
    def pieces(self) -> list[Piece]:
        return self.texts.pieces(self.sequence.tokens, self.positions)

    @property
    def models(self) -> dict[str, str]:
        """GOOD, and BAD if there is one, as they were named."""
        source = self.pair.bad_source
        bad = str(source.folder) if source.folder else source.plan_text(None)
        both = {"GOOD": str(self.pair.good.folder), "BAD": bad}
        return both if bad != "none" else {"GOOD": both["GOOD"]}

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a draw besides the models; truncation only where it is on."""
        params = self.strategies.cd
        fields = {"contrast": params.bad_weight} if "BAD" in self.models else {}
        fields |= {"alpha": params.alpha, "temperature": params.temperature}
        off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "masked_score": None}
        fields |= {
            name: getattr(params, name)
            for name, value in off.items()
            if getattr(params, name) != value
        }
        return {**fields, "seed": self.plan.seed, "sequence": self.sequence.sequence_id}

    @property
    def strategy_names(self) -> list[str]:
        """The strategies that can be compared: CD needs a BAD."""
        return [name for name in STRATEGIES if name != "cd" or "BAD" in self.models]

    def is_prompt(self, index: int) -> bool:
        return index < self.sequence.prompt_tokens

    @property
    def parts(self) -> list[Part]:
        """The prompt and the continuation; or all of a text, whose first token alone is given."""
        if self.sequence.prompt_tokens == 1:
            return [Part("", self.pieces)]
        prompt = [piece for piece in self.pieces if self.is_prompt(piece.first)]
        rest = self.pieces[len(prompt) :]
        return [Part("Prompt", prompt), Part("Continuation", rest)]


def inspect_text(text: str, flags: Mapping[str, Any]) -> Inspected:
    """Inspect a text with the models and settings in `flags`. Raises the errors of `open_text`."""
    opened = open_text(text, flags)
    return _read("A text", opened, opened.sequence, opened.pair.notes)


def inspect_row(out: Path, sequence_id: int, good: Path | None, bad: str | None) -> Inspected:
    """Inspect a row of the corpus in `out`. Raises the errors of `open_corpus` and of
    `InspectedCorpus.sequence`."""
    corpus = open_corpus(out, good, bad)
    sequence = corpus.sequence(sequence_id)
    return _read(f"{out}, sequence {sequence_id}", corpus, sequence, corpus.notes)


def _read(
    subject: str,
    of: InspectedText | InspectedCorpus,
    sequence: TokenSequence,
    notes: tuple[str, ...],
) -> Inspected:
    reader = SequenceReader.load(of.plan, of.pair, of.strategies)
    (positions,) = reader.positions([sequence])
    return Inspected(subject, sequence, of.plan, of.pair, of.strategies, positions, notes)
