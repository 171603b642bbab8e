"""A model of transformers that continues texts: its state is carried from step to step, whatever
the model calls it."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F

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

    @cached_property
    def takes(self) -> frozenset[str]:
        """The names of the arguments of a forward pass."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    @classmethod
    def of(cls, model: Any, vocab_size: int, length: int) -> Self:
        """Try the state of `model` on a few texts of `length` tokens, at least two."""
        return cls(model, _state_is_exact(model, vocab_size, length))


@dataclass
class Continuation:
    """The logits of one model for some rows, step by step.

    The rows may be padded on the left: `mask` then has a 1 for each token of the prompts and a 0
    for padding.
    """

    of: TextModel
    mask: torch.Tensor | None = None  # [B, P] int64
    _state: dict[str, Any] = field(default_factory=dict)

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:  # [B, T] int64 -> [B, V]
        """Return the logits after `tokens`: those of the last call and, if there was one, one
        more column."""
        fresh = tokens[:, -1:] if self._state else tokens
        told = self._padding(tokens.shape[1], fresh.shape[1]) | self._state
        if "logits_to_keep" in self.of.takes:
            told["logits_to_keep"] = 1  # those of all tokens of long prompts might not fit
        out = self.of.model(input_ids=fresh, use_cache=self.of.carries_state, **told)
        if self.of.carries_state:
            self._state = {name: out[name] for name in _STATES if out.get(name) is not None}
        return out.logits[:, -1]

    def _padding(self, length: int, fresh: int) -> dict[str, Any]:
        """Return what tells the model of the padding in rows of `length` tokens, of which it is to
        read the last `fresh`."""
        if self.mask is None:
            return {}
        mask = F.pad(self.mask, (0, length - self.mask.shape[1]), value=1)
        told = {"attention_mask": mask}
        if "position_ids" in self.of.takes:
            told["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -fresh:]
        return told


@torch.inference_mode()
def _state_is_exact(model: Any, vocab_size: int, length: int) -> bool:
    """Return whether the carried state gives the logits of the whole text."""
    texts = _some_texts(model, vocab_size, length)
    carried = Continuation(TextModel(model, carries_state=True))
    for end in range(max(1, length - 2), length + 1):
        found = carried.advance(texts[:, :end]).float()
    if not carried._state:
        return False
    whole = Continuation(TextModel(model, carries_state=False)).advance(texts).float()
    return _differ_by_rounding(found, whole, model.dtype)


@torch.inference_mode()
def padding_is_exact(of: TextModel, vocab_size: int, length: int) -> bool:
    """Return whether a text padded on the left has the logits that it has without padding; tried
    with texts of `length` tokens, at least four. In transformers 5.17 Mamba and RWKV fail."""
    texts, padding = _some_texts(of.model, vocab_size, length), length // 2
    mask = torch.ones_like(texts)
    mask[1, :padding] = 0
    padded, bare = Continuation(of, mask), Continuation(of)
    for end in (length - 1, length):
        found = padded.advance(texts[:, :end])[1:].float()
        whole = bare.advance(texts[1:, padding:end]).float()
    return _differ_by_rounding(found, whole, of.model.dtype)


def _some_texts(model: Any, vocab_size: int, length: int) -> torch.Tensor:  # [2, length] int64
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(vocab_size, (2, length), generator=generator).to(model.device)
    if (padding := getattr(model.config, "pad_token_id", None)) is not None:
        texts[texts == padding] = (padding + 1) % vocab_size  # RoBERTa counts no position for it
    return texts


def _differ_by_rounding(found: torch.Tensor, whole: torch.Tensor, dtype: torch.dtype) -> bool:
    """Return whether two computations of the same logits agree.

    Rounding is of the order of the dtype's epsilon. The limit is its square root, times the range
    of the logits; a state that misses a token or mixes rows is off by far more.
    """
    limit = math.sqrt(torch.finfo(dtype).eps) * (whole.max() - whole.min())
    return not bool((found - whole).abs().max() > limit)  # NaN is not judged here
