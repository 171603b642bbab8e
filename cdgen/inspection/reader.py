"""From a plan and its models to the records of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan
from cdgen.engine.slot_engine import SlotEngine
from cdgen.generation.build_engine import Engine, make_engine
from cdgen.generation.threads import useful_threads
from cdgen.inspection.lockstep import LockstepReader
from cdgen.inspection.positions import Position, TokenSequence
from cdgen.inspection.strategies import Strategies
from cdgen.inspection.whole_texts import WholeTextReader


@dataclass(frozen=True)
class SequenceReader:
    """The models of a pair, loaded as a plan names them, and the strategies to compare."""

    engine: Engine
    strategies: Strategies

    @classmethod
    def load(cls, plan: Plan, pair: Pair, strategies: Strategies) -> SequenceReader:
        """Load the models. Raises ModelError."""
        return cls(make_engine(plan, pair), strategies)

    def positions(self, sequences: Sequence[TokenSequence]) -> list[list[Position]]:
        """Return one record for each token of each sequence but its first.

        Sequences may be as long as the plan's: its prompts and new tokens together. Many at once
        cost little more than one, because they fill the slots that a plan has anyway.
        """
        if not sequences:
            return []
        with useful_threads(self.engine):
            return self._reader().positions(sequences)

    def _reader(self) -> LockstepReader | WholeTextReader:
        if isinstance(self.engine, SlotEngine):
            return LockstepReader(self.engine, self.strategies)
        return WholeTextReader(self.engine, self.strategies)
