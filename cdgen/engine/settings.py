"""Settings of an engine."""

from __future__ import annotations

from dataclasses import dataclass

from cdgen.engine.sequences import Limits
from cdgen.kernels.sampling_params import SamplingParams


@dataclass(frozen=True)
class EngineSettings:
    """All that decides the tokens of a sequence besides the models and its prompt."""

    params: SamplingParams
    limits: Limits
    seed: int  # 64 bits
    vocab_size: int  # token ids from here on are never drawn
    logprobs: bool = False  # also sum GOOD's log-probabilities of the drawn tokens
