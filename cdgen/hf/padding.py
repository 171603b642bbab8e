"""Which of the tokens that `generate` hands on are padding, and models that can be padded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from cdgen.engine.continuation import Continuation, TextModel, padding_is_exact

_TRIED_TOKENS = 8  # with which a model shows whether its state and its padding are exact


def text_model(model: PreTrainedModel) -> TextModel:
    """Return the model in the form that continues texts step by step."""
    return TextModel.of(model, model.config.vocab_size, _TRIED_TOKENS)


def continuation(
    of: TextModel,
    mask: torch.Tensor | None,  # [B, P]
) -> Continuation:
    """Return the beginning of the rows that a `known_mask` belongs to. Raises ValueError if the
    model's logits depend on padding."""
    if mask is not None and not padding_is_exact(of, of.model.config.vocab_size, _TRIED_TOKENS):
        raise ValueError(
            f"{of.model.config.model_type}: its logits depend on padding: give prompts of equal"
            " length, or one at a time"
        )
    return Continuation(of, mask)


def known_mask(
    tokens: torch.Tensor,  # [B, T] int64
    model: PreTrainedModel,
    mask: torch.Tensor | None,  # [B, P]
) -> torch.Tensor | None:  # [B, P] int64: 1 for a token, 0 for padding, None if there is none
    """Return the mask of the prompts, found by the leading padding tokens if none is given.

    Raises ValueError if it does not fit `tokens`, if a padding token may as well be text, or if
    padding stands after text.
    """
    found = _leading_padding(tokens, model) if mask is None else mask.to(tokens.device).long()
    rows, length = tokens.shape
    if found.dim() != 2 or len(found) != rows or found.shape[1] > length:
        raise ValueError(
            f"attention_mask: expected [{rows}, {length} or less], got {list(found.shape)}"
        )
    if bool((found.diff(dim=1) < 0).any()) or not bool(found[:, -1:].all()):
        raise ValueError("attention_mask: expected padding on the left, found some after a token")
    return None if bool(found.all()) else found


def _leading_padding(tokens: torch.Tensor, model: PreTrainedModel) -> torch.Tensor:
    special = model.generation_config
    padding, ends = _as_list(special.pad_token_id), _as_list(special.eos_token_id)
    starts_alike = torch.isin(tokens[:, 0], torch.tensor(padding or ends, device=tokens.device))
    if not bool(starts_alike.any()):
        return torch.ones_like(tokens)
    if not padding or {*padding} & {*ends, *_as_list(special.bos_token_id)}:
        raise ValueError(
            f"attention_mask: needed, because token {int(tokens[starts_alike][0, 0])} at the"
            " beginning of a row may be padding or text"
        )
    return (tokens != padding[0]).long().cummax(1).values


def _as_list(token_ids: Any) -> list[int]:
    if token_ids is None:
        return []
    return [*token_ids] if isinstance(token_ids, list | tuple) else [int(token_ids)]
