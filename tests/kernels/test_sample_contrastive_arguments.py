"""Arguments that do not fit are refused with a message that names the argument, what was expected
and what it got: a kernel gets bare addresses and could not tell."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import cdgen
from cdgen.kernels.sample_contrastive import sample_contrastive, sample_contrastive_heads
from cdgen.kernels.sampling_params import SamplingParams

B, V, D = 3, 20, 8


def logits_arguments(**changes: Any) -> dict[str, Any]:
    return {
        "good": torch.zeros(B, V),
        "bad": torch.zeros(B, V),
        "params": SamplingParams(),
        "seed": 0,
        "sequence_ids": torch.arange(B),
        "positions": torch.arange(B),
        **changes,
    }


def heads_arguments(**changes: Any) -> dict[str, Any]:
    arguments = logits_arguments(bad_hidden=torch.zeros(B, D), bad_head=torch.zeros(V, D))
    del arguments["bad"]
    return arguments | changes


SHARED: list[tuple[dict[str, Any], str]] = [
    (
        {"params": SamplingParams(masked_score=-20.0), "backend": "cpu"},
        "backend: expected 'reference' with a masked_score, got 'cpu'",
    ),
    ({"good": torch.zeros(V)}, "good: expected .*[B, V].* got (20,)"),
    ({"good": torch.zeros(B, V, 1)}, "good: expected .*[B, V].* got (3, 20, 1)"),
    ({"good": torch.zeros(B, 0)}, "good: expected non-empty .* got (3, 0)"),
    ({"good": torch.zeros(0, V)}, "good: expected non-empty .* got (0, 20)"),
    ({"good": torch.zeros(B, V).double()}, "good: expected .*float16, got .*float64"),
    ({"good": torch.zeros(V, B).T}, "good: expected columns side by side, got strides (1, 3)"),
    ({"sequence_ids": torch.arange(2)}, "sequence_ids: expected [3] .* got [2]"),
    ({"sequence_ids": torch.arange(B).int()}, "sequence_ids: .*int64 .* got [3] torch.int32"),
    ({"positions": torch.arange(4)}, "positions: expected [3] .* got [4]"),
    ({"positions": torch.arange(3.0)}, "positions: .*int32 or .*int64 .* got [3] torch.float32"),
    ({"seed": -1}, "seed: expected .* got -1"),
    ({"seed": 2**64}, "seed: expected .* got 18446744073709551616"),
    ({"vocab_size": 0}, "vocab_size: expected 1 to 20 .* got 0"),
    ({"vocab_size": V + 1}, "vocab_size: expected 1 to 20 .* got 21"),
    ({"backend": "cuda"}, "backend: expected .* got 'cuda'"),
]

LOGITS: list[tuple[dict[str, Any], str]] = [
    ({"bad": None}, "bad: expected logits, got None"),
    ({"bad": torch.zeros(2, V)}, "bad: expected [3, 20 or more] .* got (2, 20)"),
    ({"bad": torch.zeros(B, V - 1)}, "bad: expected [3, 20 or more] .* got (3, 19)"),
    ({"bad": torch.zeros(B, 2, V)}, "bad: expected .* got (3, 2, 20)"),
    ({"bad": torch.zeros(B, V).bfloat16()}, "bad: expected .*float32 .* got .*bfloat16"),
    ({"bad": torch.zeros(B, V).long()}, "bad: expected .* got torch.int64"),
    ({"bad": torch.zeros(V, B).T}, "bad: expected columns side by side, got strides (1, 3)"),
]

HEADS: list[tuple[dict[str, Any], str]] = [
    ({"bad_hidden": torch.zeros(2, D)}, "bad_hidden: expected 3 rows .* got 2"),
    ({"bad_hidden": torch.zeros(D)}, "bad_hidden: expected two dimensions, got (8,)"),
    ({"bad_hidden": torch.zeros(D, B).T}, "bad_hidden: expected columns side by side, got"),
    ({"bad_hidden": torch.zeros(B, D).half()}, "bad_head: expected .*float16, got .*float32"),
    ({"bad_hidden": torch.zeros(B, D).double()}, "bad_hidden: expected .* got torch.float64"),
    ({"bad_head": torch.zeros(V, D + 1)}, "bad_head: expected at least [20, 8] .* got (20, 9)"),
    ({"bad_head": torch.zeros(V - 1, D)}, "bad_head: expected at least [20, 8] .* got (19, 8)"),
    ({"bad_head": torch.zeros(V)}, "bad_head: expected two dimensions, got (20,)"),
    ({"bad_head": torch.zeros(D, V).T}, "bad_head: expected columns side by side, got"),
    ({"bad_bias": torch.zeros(V - 1)}, "bad_bias: expected at least [20] .* got (19,)"),
    ({"bad_bias": torch.zeros(V, 1)}, "bad_bias: expected at least [20] .* got (20, 1)"),
    ({"bad_bias": torch.zeros(V).half()}, "bad_bias: expected .*float32, got .*float16"),
    ({"bad_bias": torch.zeros(2 * V)[::2]}, "bad_bias: expected columns side by side, got"),
]


def pattern(message: str) -> str:
    """Return `message` as a pattern in which only ` .* ` is a regular expression."""
    return ".*".join(re.escape(part) for part in message.split(".*"))


def names(cases: list[tuple[dict[str, Any], str]]) -> list[str]:
    return [message for _, message in cases]


@pytest.mark.parametrize(("changes", "message"), SHARED + LOGITS, ids=names(SHARED + LOGITS))
def test_logits_are_checked(changes: dict[str, Any], message: str, no_kernel_runs: None) -> None:
    with pytest.raises(ValueError, match=pattern(message)):
        sample_contrastive(**logits_arguments(**changes))


@pytest.mark.parametrize(("changes", "message"), SHARED + HEADS, ids=names(SHARED + HEADS))
def test_heads_are_checked(changes: dict[str, Any], message: str, no_kernel_runs: None) -> None:
    with pytest.raises(ValueError, match=pattern(message)):
        sample_contrastive_heads(**heads_arguments(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": -0.1}, "alpha: expected a number in [0, 1], got -0.1"),
        ({"alpha": 1.1}, "alpha: expected a number in [0, 1], got 1.1"),
        ({"alpha": float("nan")}, "alpha: expected a finite number within fp32, got nan"),
        (
            {"good_weight": float("inf")},
            "good_weight: expected a finite number within fp32, got inf",
        ),
        ({"good_weight": 1e39}, "good_weight: expected a finite number within fp32, got 1e+39"),
        ({"bad_weight": -1.0}, "bad_weight: expected 0 or more, got -1.0"),
        ({"temperature": -1.0}, "temperature: expected 0 or more, got -1.0"),
        ({"temperature": "hot"}, "temperature: expected a finite number within fp32, got 'hot'"),
        ({"top_k": -1}, "top_k: expected an integer of 0 or more, got -1"),
        ({"top_k": 2.5}, "top_k: expected an integer of 0 or more, got 2.5"),
        ({"top_p": 0.0}, "top_p: expected a number in (0, 1], got 0.0"),
        ({"top_p": 1.5}, "top_p: expected a number in (0, 1], got 1.5"),
        ({"min_p": -0.5}, "min_p: expected a number in [0, 1], got -0.5"),
        ({"min_p": 1.5}, "min_p: expected a number in [0, 1], got 1.5"),
    ],
)
def test_params_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SamplingParams(**changes)


def test_cdgen_exports_the_kernels_under_their_names() -> None:
    assert cdgen.sample_contrastive is sample_contrastive
    assert cdgen.sample_contrastive_heads is sample_contrastive_heads
    assert cdgen.SamplingParams is SamplingParams
