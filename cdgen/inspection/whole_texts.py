"""Whole sequences through models of transformers that have no lean decoder.

`cdgen generate` feeds such models in waves whose shapes depend on the range, so here bits differ
from those of a run, and a draw may differ where two scores are within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cdgen.engine.wave_engine import WaveEngine
from cdgen.inspection.positions import Position, TokenSequence, position_records
from cdgen.inspection.strategies import Strategies
from cdgen.kernels.sample_contrastive import sample_contrastive
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams


@dataclass(frozen=True)
class WholeTextReader:
    """Reads one sequence after another."""

    engine: WaveEngine
    strategies: Strategies

    @torch.inference_mode()
    def positions(self, sequences: Sequence[TokenSequence]) -> list[list[Position]]:
        """Return the records of each sequence."""
        return [self._read(sequence) for sequence in sequences]

    def _read(self, sequence: TokenSequence) -> list[Position]:
        good_model, bad_model = self.engine.good.model, self.engine.bad
        tokens = torch.tensor(sequence.tokens, device=good_model.device)
        good = self._logits(good_model, tokens)
        bad = None if bad_model is None else self._logits(bad_model.model, tokens)
        positions = torch.arange(1, len(tokens), device=tokens.device)

        def draw(params: SamplingParams, bad: torch.Tensor | None) -> SampleOutput:
            return sample_contrastive(
                good,
                bad,
                params,
                seed=self.engine.settings.seed,
                sequence_ids=torch.full_like(positions, sequence.sequence_id),
                positions=positions,
            )

        draws, cd = self.strategies.draws(draw, bad), self.strategies.cd
        return position_records(positions.tolist(), tokens[1:], good, bad, draws, cd)

    def _logits(
        self,
        model: object,
        tokens: torch.Tensor,  # [T] int64
    ) -> torch.Tensor:  # [T - 1, V]: what each token but the last predicts
        logits = model(input_ids=tokens[None]).logits[0, :-1]  # type: ignore[operator]
        return logits[:, : self.engine.settings.vocab_size].contiguous()
