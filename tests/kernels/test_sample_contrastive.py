"""The native sampler against the reference, draw for draw with the same noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdgen.kernels import reference
from cdgen.kernels.sample_contrastive import sample_contrastive
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams

# How far apart, relative to their magnitude (or 1), the keys of two different tokens may be: the
# logarithms of the noise may differ in the last bit. A greedy draw has none, and must be exact.
KEY_TOLERANCE = 1e-5

SEED = 2**63 + 12345

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
VOCABULARIES = (1, 2, 7, 8, 111, 127, 128, 129, 1271, 16384, 50257, 128256)

PARAMETERS = {
    "cd": SamplingParams(),
    "cd-obrien": SamplingParams(good_weight=1.5, bad_weight=0.5),
    "cd-cold": SamplingParams(temperature=0.3),
    "cd-alpha-0": SamplingParams(alpha=0.0),
    "cd-alpha-1": SamplingParams(alpha=1.0),
    "plausible-only": SamplingParams(bad_weight=0.0),
    "vanilla": SamplingParams(bad_weight=0.0, alpha=0.0),
    "vanilla-hot": SamplingParams(bad_weight=0.0, alpha=0.0, temperature=2.5),
    "greedy": SamplingParams(temperature=0.0),
    "greedy-alpha-0": SamplingParams(temperature=0.0, alpha=0.0, top_p=0.9),
    "top-k": SamplingParams(alpha=0.0, top_k=5),
    "top-p": SamplingParams(alpha=0.0, top_p=0.9),
    "min-p": SamplingParams(alpha=0.0, min_p=0.05),
    "all-three": SamplingParams(top_k=200, top_p=0.95, min_p=0.02),
    "all-three-alpha-0": SamplingParams(alpha=0.0, top_k=2000, top_p=0.8, min_p=0.02),
}


def logit_rows(vocab: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """GOOD and BAD of eight kinds of row; more of each where V is small, half where it is large."""
    generator = torch.Generator().manual_seed(vocab)
    repeats = 8 if vocab < 10_000 else 1
    noise = torch.randn(repeats, 8, vocab, generator=generator)
    bad = torch.randn(repeats, 8, vocab, generator=generator)
    good = 2 * noise
    good[:, 1] = 10 * noise[:, 1]  # peaked
    good[:, 2] = 1.5  # all of V plausible
    good[:, 3] = bad[:, 3] = 1.5  # all of V tied
    good[:, 4] = good[:, 4].round()  # many ties at the threshold, and in the score
    bad[:, 4] = bad[:, 4].round()
    for kind, share in ((5, 0.5), (6, 0.99), (7, 1.0)):  # -inf but in one random column
        holes = torch.rand(repeats, vocab, generator=generator) < share
        column = torch.randint(vocab, (repeats, 1), generator=generator)
        good[:, kind] = good[:, kind].masked_fill(holes.scatter(1, column, False), -torch.inf)
    kinds = range(8) if vocab < 20_000 else (0, 2, 4, 5)
    return good[:, kinds].flatten(0, 1).to(dtype), bad[:, kinds].flatten(0, 1).to(dtype)


def coordinates(rows: int) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Seed, sequence ids and positions of the draws."""
    return SEED, torch.arange(rows) * 0x9E3779B97F4A7, torch.arange(rows) * 37 + 1


def draw(
    good: torch.Tensor, bad: torch.Tensor | None, params: SamplingParams, backend: str = "cpu"
) -> SampleOutput:
    seed, ids, positions = coordinates(len(good))
    return sample_contrastive(
        good, bad, params, seed=seed, sequence_ids=ids, positions=positions, backend=backend
    )


@cache  # one answer serves every instruction set
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


finite_logits = st.floats(-60, 60, width=32) | st.integers(-4, 4).map(float)
any_logits = finite_logits | st.floats(width=32) | st.just(float("-inf"))


@st.composite
def rows_and_params(draw_: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, SamplingParams]:
    vocab = draw_(st.integers(1, 12))
    logits = draw_(st.sampled_from([finite_logits, any_logits]))
    row = st.lists(logits, min_size=vocab, max_size=vocab)
    good, bad = (torch.tensor(draw_(st.lists(row, min_size=2, max_size=2))) for _ in range(2))
    params = SamplingParams(
        good_weight=draw_(st.sampled_from([1.0, 0.5, 1.7])),
        bad_weight=draw_(st.sampled_from([0.0, 1.0]) | st.floats(0, 3, width=32)),
        alpha=draw_(st.sampled_from([0.0, 0.1, 1.0]) | st.floats(0, 1)),
        temperature=draw_(st.sampled_from([0.0, 1.0]) | st.floats(0.01, 100)),
        top_k=draw_(st.integers(0, vocab + 1)),
        top_p=draw_(st.just(1.0) | st.floats(0, 1, exclude_min=True)),
        min_p=draw_(st.just(0.0) | st.floats(0, 1)),
    )
    return good, bad, params


# The instruction set stays the same over all the examples of one run, so resetting the fixture
# between them is not needed.
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
    """At 2**27 fp32 numbers are 16 apart: noise within 8 vanishes, and stronger noise lifts a token
    to the very key of one whose score is higher."""
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
