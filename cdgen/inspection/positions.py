"""One record for each token of a text: what both models say of it, and what would have been drawn.

The first token of a sequence is given and has no record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cdgen.inspection.divergence import Divergence, divergences
from cdgen.kernels.sampling_params import RowStatus, SampleOutput, SamplingParams


@dataclass(frozen=True)
class TokenSequence:
    """The tokens of a sequence, those of its prompt first, and the id that decides its noise."""

    sequence_id: int
    tokens: Sequence[int]
    prompt_tokens: int = 1


@dataclass(frozen=True)
class DrawnTokens:
    """The tokens that three strategies draw at one position with the same noise. None: logits that
    cannot be sampled, or, for `cd`, no BAD."""

    vanilla: int | None
    plausible: int | None
    cd: int | None


@dataclass(frozen=True)
class Position:
    """One token of a sequence, given the tokens before it. Log-probabilities are at temperature 1,
    in nats."""

    index: int  # in its sequence; the first token of a sequence is 0
    token: int
    good_logprob: float
    bad_logprob: float | None  # None without a BAD
    plausible: int  # size of the plausible set
    is_plausible: bool  # whether the token is in it
    rank: int  # of the token under GOOD; 1 is the most probable, and ties share the better rank
    entropy: float  # of GOOD's distribution
    drawn: DrawnTokens
    divergence: Divergence | None = None  # None where they draw by no probabilities

    @property
    def difference(self) -> float | None:
        """log p_GOOD - log p_BAD; None without a BAD."""
        return None if self.bad_logprob is None else self.good_logprob - self.bad_logprob


@dataclass(frozen=True)
class Draws:
    """The draws of the three strategies at N positions."""

    vanilla: SampleOutput
    plausible: SampleOutput
    cd: SampleOutput | None


def position_records(
    indices: Sequence[int],  # N
    tokens: torch.Tensor,  # [N] int64
    good: torch.Tensor,  # [N, V] logits, without padding
    bad: torch.Tensor | None,  # [N, V]
    draws: Draws,
    cd: SamplingParams,  # of the contrast
) -> list[Position]:  # N
    """Return the records of N tokens, each with the logits of the position before it."""
    log_p = good.double().log_softmax(-1)
    own = log_p.gather(1, tokens[:, None])  # [N, 1]
    # A probability of 0 adds nothing to the entropy; 0 * -inf would be NaN.
    entropy = torch.special.entr(log_p.exp()).sum(-1)
    bad_own = [None] * len(tokens)
    if bad is not None:
        bad_own = bad.double().log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
    columns = zip(
        indices,
        tokens.tolist(),
        own[:, 0].tolist(),
        bad_own,
        draws.plausible.plausible.tolist(),
        _in_plausible_set(good, tokens, cd.log_alpha).tolist(),
        (1 + (log_p > own).sum(-1)).tolist(),
        entropy.tolist(),
        _drawn_tokens(draws, len(tokens)),
        divergences(good, bad, cd),
        strict=True,
    )
    return [Position(*fields) for fields in columns]


def _in_plausible_set(
    good: torch.Tensor,  # [N, V]
    tokens: torch.Tensor,  # [N] int64
    log_alpha: float,
) -> torch.Tensor:  # [N] bool
    """Apply the test of the sampler: in fp32, as `kernels/reference.py` defines it."""
    logits = good.float()
    own = logits.gather(1, tokens[:, None])[:, 0]
    return (own >= logits.amax(-1) + log_alpha) & (own > float("-inf"))


def _drawn_tokens(draws: Draws, count: int) -> list[DrawnTokens]:
    nothing: list[int | None] = [None] * count
    cd = _tokens(draws.cd) if draws.cd else nothing
    both = (_tokens(draws.vanilla), _tokens(draws.plausible))
    return [DrawnTokens(*each) for each in zip(*both, cd, strict=True)]


def _tokens(out: SampleOutput) -> list[int | None]:
    pairs = zip(out.tokens.tolist(), out.status.tolist(), strict=True)
    return [token if status == RowStatus.OK else None for token, status in pairs]
