"""Rows of a plan, from the sequences that an engine writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan
from cdgen.corpus.rows import Row, TextRenderer
from cdgen.engine.sequences import Request, Sequence

if TYPE_CHECKING:
    from cdgen.engine.slot_engine import SlotEngine
    from cdgen.engine.wave_engine import WaveEngine


class FinishedRows:
    """Makes the rows of finished sequences: their places in the plan, and their texts."""

    def __init__(self, plan: Plan, pair: Pair) -> None:
        bos = [] if pair.bos_token_id is None else [pair.bos_token_id]
        self.plan, self.renderer = plan, TextRenderer(pair.tokenizer, {*pair.eos_token_ids, *bos})

    def rows(
        self,
        engine: SlotEngine | WaveEngine,
        ids: Iterable[int],
        prompt: Callable[[int], list[int]],
    ) -> Iterator[Row]:
        """Yield the rows of the sequences `ids` as they are finished; `prompt` returns the token
        ids of a prompt by its id."""
        requests = (Request(i, prompt(self.plan.prompt_id(i))) for i in ids)
        return (self.row(sequence) for sequence in engine.generate(requests))

    def row(self, sequence: Sequence) -> Row:
        assert sequence.finish_reason is not None
        return Row(
            sequence_id=sequence.sequence_id,
            prompt_id=self.plan.prompt_id(sequence.sequence_id),
            text=self.renderer.text(sequence.tokens, sequence.finish_reason == "length"),
            tokens=sequence.tokens,
            prompt_tokens=sequence.prompt_tokens,
            new_tokens=sequence.new_tokens,
            finish_reason=sequence.finish_reason,
            mean_plausible=sequence.plausible / max(1, sequence.new_tokens),
            good_logprob=sequence.good_logprob,
        )
