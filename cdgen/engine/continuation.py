"""A model of transformers that continues texts: its state is carried from step to step, whatever
the model calls it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

import torch

# Names of what a model hands back and takes again: attention caches, Mamba's state, RWKV's.
_STATES = ("past_key_values", "cache_params", "state")


@dataclass(frozen=True)
class TextModel:
    """A causal model, and whether its state can stand for the tokens that it has read.

    GPT-1 has none, and RWKV's is wrong for more than one row in some versions of transformers.
    Such a model computes every step from the whole text.
    """

    model: Any
    carries_state: bool

    @classmethod
    def of(cls, model: Any, vocab_size: int, length: int) -> Self:
        """Try the state of `model` on a few texts of `length` tokens, at least two."""
        return cls(model, _state_is_exact(model, vocab_size, length))


@dataclass
class Continuation:
    """The logits of one model for the rows of one wave, step by step."""

    of: TextModel
    _state: dict[str, Any] = field(default_factory=dict)

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:  # [B, T] int64 -> [B, V]
        """Return the logits after `tokens`: those of the last call and, if there was one, one
        more column."""
        fresh = tokens[:, -1:] if self._state else tokens
        out = self.of.model(input_ids=fresh, use_cache=self.of.carries_state, **self._state)
        if self.of.carries_state:
            self._state = {name: out[name] for name in _STATES if out.get(name) is not None}
        return out.logits[:, -1]


@torch.inference_mode()
def _state_is_exact(model: Any, vocab_size: int, length: int) -> bool:
    """Return whether the carried state gives the logits of the whole text.

    They differ by rounding, of the order of the dtype's epsilon. The limit is its square root,
    times the range of the logits; a state that misses a token or mixes rows is off by far more.
    """
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(vocab_size, (2, length), generator=generator).to(model.device)
    if (padding := getattr(model.config, "pad_token_id", None)) is not None:
        texts[texts == padding] = (padding + 1) % vocab_size  # RoBERTa counts no position for it
    carried = Continuation(TextModel(model, carries_state=True))
    for end in range(max(1, length - 2), length + 1):
        found = carried.advance(texts[:, :end]).float()
    if not carried._state:
        return False
    whole = Continuation(TextModel(model, carries_state=False)).advance(texts).float()
    limit = math.sqrt(torch.finfo(model.dtype).eps) * (whole.max() - whole.min())
    return not bool((found - whole).abs().max() > limit)  # NaN is not judged here
