"""Sequences through the lean decoders, in the steps in which `cdgen generate` takes them.

One token per slot and step, after a prompt that went through the models as in a run, gives the
logits the bits that they had when a corpus was written: the plan's strategy draws the corpus's own
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cdgen.engine.paired import PairedModels
from cdgen.engine.sequences import Request
from cdgen.engine.slot_engine import SlotEngine
from cdgen.inspection.positions import Position, TokenSequence, position_records
from cdgen.inspection.strategies import Strategies
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams


@dataclass(frozen=True)
class LockstepReader:
    """Reads as many sequences at a time as the decoders have slots."""

    engine: SlotEngine
    strategies: Strategies

    @property
    def models(self) -> PairedModels:
        return self.engine.slots.models

    @torch.inference_mode()
    def positions(self, sequences: Sequence[TokenSequence]) -> list[list[Position]]:
        """Return the records of each sequence. None may be longer than the decoders' capacity."""
        slots = self.models.good.slots
        batches = (sequences[i : i + slots] for i in range(0, len(sequences), slots))
        return [records for batch in batches for records in self._read(batch)]

    def _read(self, sequences: Sequence[TokenSequence]) -> list[list[Position]]:
        tokens, ids = self._slots(sequences)
        found: list[list[Position]] = [[] for _ in sequences]
        for index in range(1, tokens.shape[1]):
            if self.engine.prefills:
                self._prefill(sequences, index)
            rows = [row for row, s in enumerate(sequences) if len(s.tokens) > index]
            records = self._step(index, tokens[:, index - 1 : index + 1], ids, rows)
            for row, record in zip(rows, records, strict=True):
                found[row].append(record)
        return found

    def _prefill(self, sequences: Sequence[TokenSequence], length: int) -> None:
        """Replace what the steps left in the caches of prompts of this length by what a run puts
        there; their last token is fed by a step in a run as well."""
        rows = [row for row, sequence in enumerate(sequences) if sequence.prompt_tokens == length]
        requests = [
            Request(sequences[r].sequence_id, [*sequences[r].tokens[:length]]) for r in rows
        ]
        if rows and length > 1:
            self.engine.prefill_prompts(rows, requests)

    def _slots(
        self, sequences: Sequence[TokenSequence]
    ) -> tuple[torch.Tensor, torch.Tensor]:  # [B, T], [B] int64
        """Return the tokens and the ids of all slots. Shorter rows end with zeros, and slots
        without a sequence hold nothing else."""
        slots, width = self.models.good.slots, max(len(s.tokens) for s in sequences)
        tokens = torch.zeros(slots, width, dtype=torch.int64)
        ids = torch.zeros(slots, dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            tokens[row, : len(sequence.tokens)] = torch.tensor(sequence.tokens)
            ids[row] = sequence.sequence_id
        device = self.models.good.device
        return tokens.to(device), ids.to(device)

    def _step(
        self,
        index: int,  # of the second token
        tokens: torch.Tensor,  # [B, 2] int64: the token that is fed, and the one that follows
        ids: torch.Tensor,  # [B] int64
        rows: list[int],  # N slots that are wanted; the others keep the shapes of a run
    ) -> list[Position]:  # N
        models, vocab_size = self.models, self.models.settings.vocab_size
        positions = torch.full_like(ids, index)
        hidden, bad_hidden = models.hidden(tokens[:, 0].contiguous(), positions - 1, ids)
        good = models.good.logits(hidden)
        bad = None if bad_hidden is None else models.bad_logits(bad_hidden)[rows, :vocab_size]

        def draw(params: SamplingParams, bad_hidden: torch.Tensor | None) -> SampleOutput:
            settings = replace(models.settings, params=params)
            out = replace(models, settings=settings).sample(good, bad_hidden, ids, positions)
            return out.of_rows(rows)

        draws = self.strategies.draws(draw, bad_hidden)
        indices, own = [index] * len(rows), tokens[rows, 1]
        cd = self.strategies.cd
        return position_records(indices, own, good[rows, :vocab_size], bad, draws, cd)
