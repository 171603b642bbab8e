"""GOOD and BAD together: both models' hidden states, and the draw from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cdgen.engine.settings import EngineSettings
from cdgen.kernels.sample_contrastive import sample_contrastive, sample_contrastive_heads
from cdgen.kernels.sampling_params import SampleOutput
from cdgen.models.decoder import Decoder, forward_together


@dataclass
class PairedModels:
    """GOOD's and BAD's decoders, and how a token is drawn from their hidden states."""

    good: Decoder
    bad: Decoder | None  # None: there is no BAD, or GOOD's decoder returns its rows after GOOD's
    settings: EngineSettings

    def __post_init__(self) -> None:
        on_gpu = self.good.device.type == "cuda"
        self._bad_stream = torch.cuda.Stream(self.good.device) if self.bad and on_gpu else None

    def hidden(
        self,
        tokens: torch.Tensor,  # [B] int64
        positions: torch.Tensor,  # [B] int64
        sequence_ids: torch.Tensor,  # [B] int64
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # [B, D] of GOOD, [B, D'] of BAD
        """Run both models on one token per slot."""
        if self.bad is None:
            hidden = self.good.forward(tokens, positions, sequence_ids)
            slots = self.good.slots
            return hidden[:slots], hidden[slots:] if len(hidden) > slots else None
        if self._bad_stream is None:
            return forward_together(self.good, self.bad, tokens, positions, sequence_ids)
        # Two models of different shapes fill one GPU from two streams, inside a graph as well.
        # Memory that BAD allocates on its stream is reused there only after the next wait.
        main_stream = torch.cuda.current_stream()
        self._bad_stream.wait_stream(main_stream)
        try:
            with torch.cuda.stream(self._bad_stream):
                bad_hidden = self.bad.forward(tokens, positions, sequence_ids)
            hidden = self.good.forward(tokens, positions, sequence_ids)
        finally:  # join the streams even on an error: else the capture's own error would hide it
            main_stream.wait_stream(self._bad_stream)
        return hidden, bad_hidden

    def sample(
        self,
        logits: torch.Tensor,  # [B, V], GOOD's
        bad_hidden: torch.Tensor | None,  # [B, D']
        sequence_ids: torch.Tensor,  # [B] int64
        positions: torch.Tensor,  # [B] int64, of the tokens to draw
    ) -> SampleOutput:
        """Draw one token per slot.

        BAD's logits are computed at plausible tokens only, unless alpha = 0 makes all plausible.
        """
        params, seed = self.settings.params, self.settings.seed
        if bad_hidden is not None and params.alpha > 0:
            bad, model = self._bad_head
            return sample_contrastive_heads(
                logits,
                bad_hidden,
                bad.head_weight(model),
                params,
                seed=seed,
                sequence_ids=sequence_ids,
                positions=positions,
                vocab_size=self.settings.vocab_size,
            )
        return sample_contrastive(
            logits,
            None if bad_hidden is None else self.bad_logits(bad_hidden),
            params,
            seed=seed,
            sequence_ids=sequence_ids,
            positions=positions,
            vocab_size=self.settings.vocab_size,
        )

    def bad_logits(self, bad_hidden: torch.Tensor) -> torch.Tensor:  # [B, D'] -> [B, V or more]
        """Return BAD's logits of every token, which a draw needs only if alpha = 0."""
        bad, model = self._bad_head
        return bad.logits(bad_hidden, model)

    @property
    def _bad_head(self) -> tuple[Decoder, int]:
        """The decoder that holds BAD's head, and the number of the model in it. In a stack BAD is
        the last model. A BAD made of GOOD has GOOD's head, model 0."""
        return (self.bad, 0) if self.bad else (self.good, self.good.models - 1)


def log_probs(
    logits: torch.Tensor,  # [B, V]
    tokens: torch.Tensor,  # [B] int64, -1 if nothing was drawn
    vocab_size: int,
) -> torch.Tensor:  # [B] float64, nats
    """Return GOOD's log-probability of each drawn token, at temperature 1."""
    columns = logits[:, :vocab_size]
    chosen = columns.gather(1, tokens.clamp(min=0)[:, None])[:, 0]
    return chosen.double() - columns.double().logsumexp(-1)
