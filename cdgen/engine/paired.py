"""One draw from both models: hidden states of GOOD and BAD, then the token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cdgen.kernels.sample_contrastive import sample_contrastive, sample_contrastive_heads
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams
from cdgen.models.decoder import Decoder


@dataclass
class Draw:
    """How a token is drawn from both models' hidden states."""

    good: Decoder
    bad: Decoder | None  # None: alone, or stacked on GOOD, BAD's rows after GOOD's
    params: SamplingParams
    seed: int
    vocab_size: int

    def __post_init__(self) -> None:
        on_gpu = self.good.device.type == "cuda"
        self._beside = torch.cuda.Stream(self.good.device) if self.bad and on_gpu else None

    @property
    def stacked(self) -> bool:
        return self.good.rows > self.good.slots

    def hidden(
        self, tokens: torch.Tensor, positions: torch.Tensor, sequence_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # [B, D] of GOOD, [B, D'] of BAD
        if self.bad is None:
            hidden = self.good.forward(tokens, positions, sequence_ids)
            slots = self.good.slots
            return hidden[:slots], hidden[slots:] if self.stacked else None
        if self._beside is None:
            bad_hidden = self.bad.forward(tokens, positions, sequence_ids)
            return self.good.forward(tokens, positions, sequence_ids), bad_hidden
        # Two shapes fill one GPU from two streams, inside a graph too. What BAD allocates on its
        # own stream is only used again there after the next wait for this one.
        here = torch.cuda.current_stream()
        self._beside.wait_stream(here)
        try:
            with torch.cuda.stream(self._beside):
                bad_hidden = self.bad.forward(tokens, positions, sequence_ids)
            hidden = self.good.forward(tokens, positions, sequence_ids)
        finally:  # a capture that ends with streams apart would hide what went wrong
            here.wait_stream(self._beside)
        return hidden, bad_hidden

    def sample(
        self,
        logits: torch.Tensor,  # [B, V], GOOD's
        bad_hidden: torch.Tensor | None,  # [B, D']
        sequence_ids: torch.Tensor,  # [B]
        positions: torch.Tensor,  # [B]: of the tokens to draw
    ) -> SampleOutput:
        """BAD's logits only at plausible tokens, unless alpha = 0 makes every token plausible."""
        draw: dict[str, Any] = {
            "seed": self.seed, "sequence_ids": sequence_ids, "positions": positions,
            "vocab_size": self.vocab_size,
        }  # fmt: skip
        if bad_hidden is None:
            return sample_contrastive(logits, None, self.params, **draw)
        bad, model = self._bad_head()
        if self.params.alpha == 0:
            return sample_contrastive(logits, bad.logits(bad_hidden, model), self.params, **draw)
        head = bad.head_weight(model)
        return sample_contrastive_heads(logits, bad_hidden, head, self.params, **draw)

    def _bad_head(self) -> tuple[Decoder, int]:
        """Whose head: of a stack the last model's, which is GOOD's own where BAD is its dropout."""
        return (self.bad, 0) if self.bad else (self.good, self.good.models - 1)


def log_probs(
    logits: torch.Tensor,  # [B, V]
    tokens: torch.Tensor,  # [B] int64, -1 where nothing was drawn
    vocab_size: int,
) -> torch.Tensor:  # [B] float64, nats
    """GOOD's log-probability of each drawn token, at temperature 1."""
    columns = logits[:, :vocab_size]
    chosen = columns.gather(1, tokens.clamp(min=0)[:, None])[:, 0]
    return chosen.double() - columns.double().logsumexp(-1)
