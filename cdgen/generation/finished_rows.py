"""Rows of a corpus, from the sequences that an engine has finished."""

from __future__ import annotations

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan
from cdgen.corpus.rows import Row, TextRenderer
from cdgen.engine.sequences import Sequence


class FinishedRows:
    """Makes the row of a finished sequence: its place in the plan, and its text."""

    def __init__(self, plan: Plan, pair: Pair) -> None:
        bos = [] if pair.bos_token_id is None else [pair.bos_token_id]
        self.plan, self.renderer = plan, TextRenderer(pair.tokenizer, {*pair.eos_token_ids, *bos})

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
