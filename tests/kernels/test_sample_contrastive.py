"""The native sampler against the reference: same noise, so the same draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from sampling_cases import (
    DTYPES,
    KEY_TOLERANCE,
    PARAMETERS,
    VOCABULARIES,
    coordinates,
    logit_rows,
    rows_and_params,
)

from cdgen.kernels import reference
from cdgen.kernels.sample_contrastive import sample_contrastive
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams


def draw(
    good: torch.Tensor, bad: torch.Tensor | None, params: SamplingParams, backend: str = "cpu"
) -> SampleOutput:
    seed, ids, positions = coordinates(len(good))
    return sample_contrastive(
        good, bad, params, seed=seed, sequence_ids=ids, positions=positions, backend=backend
    )


@cache  # one result serves every instruction set
def reference_draw(vocab: int, dtype: torch.dtype, name: str) -> SampleOutput:
    return draw(*logit_rows(vocab, dtype), PARAMETERS[name], "reference")


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_same_draws_as_the_reference(
    vocab: int,
    dtype: torch.dtype,
    name: str,
    instruction_set: str,
    assert_same_draws: Callable[..., None],
) -> None:
    good, bad = logit_rows(vocab, dtype)
    params = PARAMETERS[name]
    assert_same_draws(
        draw(good, bad, params),
        reference_draw(vocab, dtype, name),
        good,
        bad,
        params,
        coordinates(len(good)),
        KEY_TOLERANCE if params.temperature else 0.0,
    )


# All examples of one run use the same instruction set, so the fixture need not be reset.
@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=rows_and_params())
def test_same_draws_as_the_reference_on_anything(
    instruction_set: str,
    assert_same_draws: Callable[..., None],
    case: tuple[torch.Tensor, torch.Tensor, SamplingParams],
) -> None:
    good, bad, params = case
    assert_same_draws(
        draw(good, bad, params),
        draw(good, bad, params, "reference"),
        good,
        bad,
        params,
        coordinates(len(good)),
        KEY_TOLERANCE if params.temperature else 0.0,
    )


def test_equal_keys_go_to_the_lowest_id(instruction_set: str) -> None:
    """At 2**27, fp32 numbers are 16 apart: noise within 8 vanishes, and stronger noise lifts a
    token to exactly the key of a token with a higher score."""
    generator = torch.Generator().manual_seed(0)
    good = 2.0**27 + 16 * torch.randint(2, (10_000, 64), generator=generator)
    params = SamplingParams(alpha=0.0, bad_weight=0.0)
    out, expected = draw(good, None, params), draw(good, None, params, "reference")
    assert torch.equal(out.tokens, expected.tokens)
    best = good.argmax(-1)  # the first of the largest
    assert 50 < (out.tokens != best).sum() < 500


def test_the_largest_words_still_make_finite_noise(instruction_set: str) -> None:
    """fp32 rounds the top 2**7 words to 2**32. They are rare; these coordinates draw one."""
    ids, position = torch.tensor([10475606, 19564427, 34290445]), torch.zeros(3, dtype=torch.int64)
    words = reference.random_words(0, ids, position, 4)
    assert (words.amax(-1) >= 2**32 - 2**7).all()
    good = torch.zeros(3, 4).scatter(1, words.argmax(-1, keepdim=True), 20.0)
    params = SamplingParams(alpha=0.0, bad_weight=0.0)
    out = sample_contrastive(good, None, params, seed=0, sequence_ids=ids, positions=position)
    assert out.tokens.tolist() == good.argmax(-1).tolist()


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
def test_every_bit_of_seed_sequence_and_position_counts(instruction_set: str, seed: int) -> None:
    ids = torch.tensor([0, 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**63 - 1])
    positions = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 1])
    ids, positions = (x.flatten() for x in torch.meshgrid(ids, positions, indexing="ij"))
    good = torch.zeros(len(ids), 1000)
    params = SamplingParams(bad_weight=0.0)
    tokens = [
        sample_contrastive(
            good, None, params, seed=seed, sequence_ids=ids, positions=positions, backend=backend
        ).tokens.tolist()
        for backend in ("cpu", "reference")
    ]
    assert tokens[0] == tokens[1]
    # Uniform draws of 1000 tokens at 35 coordinates: all but a few are different tokens.
    assert len(set(tokens[0])) > 28


def test_seeds_that_differ_in_one_bit_draw_differently(instruction_set: str) -> None:
    good, ids = torch.zeros(1, 100_000), torch.zeros(1, dtype=torch.int64)
    params = SamplingParams(bad_weight=0.0)
    tokens = [
        int(
            sample_contrastive(
                good, None, params, seed=seed, sequence_ids=ids, positions=ids
            ).tokens
        )
        for seed in [0] + [1 << bit for bit in range(64)]
    ]
    assert len(set(tokens)) > 60


def test_positions_may_be_int32(instruction_set: str) -> None:
    good = torch.zeros(3, 1000)
    ids, positions = torch.arange(3), torch.tensor([0, 5, 2**31 - 1])
    params = SamplingParams(bad_weight=0.0)
    wide, narrow = (
        sample_contrastive(good, None, params, seed=1, sequence_ids=ids, positions=p)
        for p in (positions, positions.int())
    )
    assert wide.tokens.tolist() == narrow.tokens.tolist()
