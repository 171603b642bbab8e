"""Fixtures of every kernel test: poisoned memory, the comparison of two sets of draws, and kernels
that must not run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cdgen.kernels import reference
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams

OPS = (
    "decode_attention",
    "embedding",
    "gelu",
    "layer_norm",
    "packed_linear",
    "rms_norm",
    "rotary_to_cache",
    "sample_contrastive",
    "swiglu",
    "tree_attention",
)


@pytest.fixture(autouse=True)
def _poisoned(poisoned_memory: None) -> None:
    """Fill every allocation in these tests with NaN or a sentinel."""


def _key(
    row: int,
    token: int,
    good: torch.Tensor,
    bad: torch.Tensor | None,
    params: SamplingParams,
    seed: int,
    sequence_ids: torch.Tensor,
    positions: torch.Tensor,
) -> float:
    """Return the key of one token, which the draw maximises, in fp64 but for the noise."""
    score = params.good_weight * float(good[row, token])
    if bad is not None and params.bad_weight:
        score -= params.bad_weight * float(bad[row, token])
    if params.temperature == 0:
        return score
    at = slice(row, row + 1)
    words = reference.random_words(seed, sequence_ids[at], positions[at], token + 1)
    return score / params.temperature + float(reference.gumbel_from_words(words[0, token]))


@pytest.fixture
def assert_same_draws() -> Callable[..., None]:
    """Return the check that holds a kernel to the reference, draw for draw.

    Status, plausible and kept must be equal (kept within `kept_slack`). The tokens must be equal
    unless their keys differ by less than `tolerance` times their magnitude, or times 1 if larger.
    """

    def check(
        out: SampleOutput,
        expected: SampleOutput,
        good: torch.Tensor,  # [B, V]
        bad: torch.Tensor | None,  # [B, V]
        params: SamplingParams,
        noise: tuple[int, torch.Tensor, torch.Tensor],  # seed, sequence_ids, positions
        tolerance: float,
        kept_slack: int = 0,
    ) -> None:
        assert out.status.tolist() == expected.status.tolist()
        assert out.plausible.tolist() == expected.plausible.tolist()
        assert (out.kept - expected.kept).abs().max() <= kept_slack
        for row in (out.tokens != expected.tokens).nonzero().flatten().tolist():
            pair = [int(x.tokens[row]) for x in (out, expected)]
            assert min(pair) >= 0, f"row {row}: tokens {pair}"
            keys = [_key(row, token, good, bad, params, *noise) for token in pair]
            gap = abs(keys[0] - keys[1])
            assert gap < tolerance * max(1.0, abs(keys[1])), f"row {row}: {pair}, keys {keys}"

    return check


@pytest.fixture
def no_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a call of a native kernel fail the test, before it reads whatever its addresses hold."""

    class Unreachable:
        def __getattr__(self, name: str) -> None:
            raise AssertionError(f"native.{name} was reached with arguments that do not fit")

    for op in OPS:
        monkeypatch.setattr(f"cdgen.kernels.{op}.native", Unreachable())
