"""One inspected sequence: its tokens, their records, and the facts about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan
from cdgen.inspection.corpus import open_corpus
from cdgen.inspection.pieces import Piece, TokenTexts
from cdgen.inspection.positions import Position, TokenSequence
from cdgen.inspection.reader import SequenceReader
from cdgen.inspection.strategies import STRATEGIES, Strategies
from cdgen.inspection.text import open_text


@dataclass(frozen=True)
class Summary:
    """Means over the records of a continuation, or of all of a text. NaN where nothing is known."""

    tokens: int
    good_logprob: float  # nats
    bad_logprob: float
    entropy: float
    plausible: float  # size of the set
    in_plausible_set: float  # share of the tokens
    same_draws: dict[str, float]  # by strategy: share of the tokens that it would have drawn too


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
    prompt_tokens: int
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
        return index < self.prompt_tokens

    @property
    def parts(self) -> list[Part]:
        """The prompt and the continuation; or all of a text, whose first token alone is given."""
        if self.prompt_tokens == 1:
            return [Part("", self.pieces)]
        prompt = [piece for piece in self.pieces if self.is_prompt(piece.first)]
        rest = self.pieces[len(prompt) :]
        return [Part("Prompt", prompt), Part("Continuation", rest)]

    @property
    def summary(self) -> Summary:
        own = [record for record in self.positions if not self.is_prompt(record.index)]
        return Summary(
            tokens=len(own),
            good_logprob=_mean([record.good_logprob for record in own]),
            bad_logprob=_mean([r.bad_logprob for r in own if r.bad_logprob is not None]),
            entropy=_mean([record.entropy for record in own]),
            plausible=_mean([record.plausible for record in own]),
            in_plausible_set=_mean([record.is_plausible for record in own]),
            same_draws={
                name: _mean([getattr(record.drawn, name) == record.token for record in own])
                for name in self.strategy_names
            },
        )

    @property
    def facts(self) -> dict[str, Any]:
        """All of it in JSON types; numbers that are not finite are null."""
        return _finite(
            {
                "subject": self.subject,
                "models": self.models,
                "settings": self.settings,
                "prompt_tokens": self.prompt_tokens,
                "summary": asdict(self.summary),
                "first_token": self._token(self.sequence.tokens[0]),
                "positions": [self._position(record) for record in self.positions],
                "notes": list(self.notes),
            }
        )

    def _position(self, record: Position) -> dict[str, Any]:
        drawn = {name: self._token(token) for name, token in vars(record.drawn).items()}
        fields = {**asdict(record), "difference": record.difference, "drawn": drawn}
        return {**fields, "token": self._token(record.token)}

    def _token(self, token: int | None) -> dict[str, Any] | None:
        return None if token is None else {"id": token, "text": self.texts.text(token)}


def inspect_text(text: str, flags: Mapping[str, Any]) -> Inspected:
    """Inspect a text with the models and settings in `flags`. Raises the errors of `open_text`."""
    opened = open_text(text, flags)
    reader = SequenceReader.load(opened.plan, opened.pair, opened.strategies)
    (positions,) = reader.positions([opened.sequence])
    return Inspected(
        "A text",
        opened.sequence,
        1,  # the first token is given
        opened.plan,
        opened.pair,
        opened.strategies,
        positions,
        opened.pair.notes,
    )


def inspect_row(out: Path, sequence_id: int, good: Path | None, bad: str | None) -> Inspected:
    """Inspect a row of the corpus in `out`. Raises the errors of `open_corpus` and of
    `InspectedCorpus.sequence`."""
    corpus = open_corpus(out, good, bad)
    sequence, prompt_tokens = corpus.sequence(sequence_id)
    reader = SequenceReader.load(corpus.plan, corpus.pair, corpus.strategies)
    (positions,) = reader.positions([sequence])
    return Inspected(
        f"{out}, sequence {sequence_id}",
        sequence,
        prompt_tokens,
        corpus.plan,
        corpus.pair,
        corpus.strategies,
        positions,
        corpus.notes,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
