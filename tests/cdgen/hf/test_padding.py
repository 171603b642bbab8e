"""Which leading tokens are padding, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig

from cdgen.hf.padding import continuation, known_mask, text_model

TOKENS = torch.tensor([[0, 0, 5, 6], [1, 0, 7, 8]])


def model(pad: Any, bos: int | None = 1, eos: Any = 2) -> Any:
    """Return what is read of a model: its special tokens."""
    special = SimpleNamespace(pad_token_id=pad, bos_token_id=bos, eos_token_id=eos)
    return SimpleNamespace(generation_config=special)


def test_leading_padding_is_found() -> None:
    found = known_mask(TOKENS, model(pad=0), None)
    assert found is not None
    assert found.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]  # padding within a text is a token


def test_rows_without_padding_have_no_mask() -> None:
    assert known_mask(TOKENS, model(pad=3), None) is None
    assert known_mask(TOKENS, model(pad=None), None) is None
    assert known_mask(TOKENS, model(pad=0), torch.ones_like(TOKENS)) is None


@pytest.mark.parametrize(
    "special", [model(pad=0, eos=[2, 0]), model(pad=0, bos=0), model(pad=None, eos=0)]
)
def test_padding_that_may_be_text_needs_a_mask(special: Any) -> None:
    with pytest.raises(ValueError, match="attention_mask: needed, because token 0"):
        known_mask(TOKENS, special, None)
    given = torch.tensor([[0, 1], [1, 1]])
    found = known_mask(TOKENS, special, given)
    assert found is not None
    assert found.tolist() == given.tolist()


def test_a_model_whose_logits_depend_on_padding_is_refused() -> None:
    torch.manual_seed(0)
    config = MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=48)
    mamba = text_model(AutoModelForCausalLM.from_config(config).eval())
    assert continuation(mamba, None).mask is None
    with pytest.raises(ValueError, match="mamba: its logits depend on padding: give prompts of"):
        continuation(mamba, torch.tensor([[0, 1], [1, 1]]))


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        ([[1, 1]], r"expected \[2, 4 or less\], got \[1, 2\]"),
        ([[1, 1, 1, 1, 1]] * 2, r"got \[2, 5\]"),
        ([[0, 1], [1, 0]], "found some after a token"),
        ([[0, 1], [0, 0]], "found some after a token"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: list[list[int]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        known_mask(TOKENS, model(pad=0), torch.tensor(mask))
