"""The wave engine: any causal model of transformers, with the same sampler and guarantees.

A wave is a group of sequences that have prompts of equal length and begin together, so no row is
padded. The members of a wave depend on the range only, and a range is generated whole or not at
all: its bytes are the same however the run was interrupted or divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

import torch

from cdgen.engine.continuation import Continuation, TextModel
from cdgen.engine.paired import log_probs
from cdgen.engine.sequences import Request, Sequence, StepReport
from cdgen.engine.settings import EngineSettings
from cdgen.kernels.sample_contrastive import sample_contrastive
from cdgen.kernels.sampling_params import RowStatus, SampleOutput


@dataclass
class WaveEngine:
    """GOOD and BAD as transformers models, in waves of at most `slots` rows."""

    good: TextModel
    bad: TextModel | None
    slots: int
    settings: EngineSettings
    on_step: Callable[[StepReport], None] = field(default=lambda report: None)
    is_tiny = False

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request]) -> Iterator[Sequence]:
        """Yield the sequences of one range, wave by wave."""
        ordered = sorted(requests, key=lambda r: (len(r.prompt), r.sequence_id))
        for _, equal in groupby(ordered, key=lambda r: len(r.prompt)):
            rows = [Sequence(r.sequence_id, list(r.prompt), len(r.prompt)) for r in equal]
            for first in range(0, len(rows), self.slots):
                yield from self._run(rows[first : first + self.slots])

    def _run(self, wave: list[Sequence]) -> list[Sequence]:
        device, settings = self.good.model.device, self.settings
        ids = torch.tensor([sequence.sequence_id for sequence in wave], device=device)
        tokens = torch.tensor([sequence.tokens for sequence in wave], device=device)  # [B, T]
        good = Continuation(self.good)
        bad = None if self.bad is None else Continuation(self.bad)
        while not all(sequence.finish_reason for sequence in wave):
            logits = good.advance(tokens)
            out = sample_contrastive(
                logits,
                None if bad is None else bad.advance(tokens),
                settings.params,
                seed=settings.seed,
                sequence_ids=ids,
                positions=torch.full_like(ids, tokens.shape[1]),
                vocab_size=settings.vocab_size,
            )
            logprob = None
            if settings.logprobs:
                logprob = log_probs(logits, out.tokens, settings.vocab_size)
            self.on_step(self._take(wave, out, logprob))
            # A finished row continues with its own draws, which are ignored: the shape of the wave
            # never changes.
            tokens = torch.cat([tokens, out.tokens.clamp(min=0)[:, None]], 1)
        return wave

    def _take(
        self,
        wave: list[Sequence],
        out: SampleOutput,
        logprob: torch.Tensor | None,  # [B] float64
    ) -> StepReport:
        """Append the drawn tokens to the unfinished sequences, and end those that are complete."""
        tokens, status, plausible = out.tokens.tolist(), out.status.tolist(), out.plausible.tolist()
        logprobs = [0.0] * len(wave) if logprob is None else logprob.tolist()
        limits, drawn, plausible_sum = self.settings.limits, 0, 0
        for row, sequence in enumerate(wave):
            if sequence.finish_reason:
                continue
            if status[row] != RowStatus.OK:
                sequence.finish_reason = "quarantined"
                continue
            sequence.tokens.append(tokens[row])
            sequence.plausible += plausible[row]
            if self.settings.logprobs:
                sequence.good_logprob = (sequence.good_logprob or 0.0) + logprobs[row]
            if tokens[row] in limits.stops:
                sequence.finish_reason = "eos"
            elif sequence.new_tokens >= limits.max_new_tokens:
                sequence.finish_reason = "length"
            drawn, plausible_sum = drawn + 1, plausible_sum + plausible[row]
        return StepReport(drawn, plausible_sum)
