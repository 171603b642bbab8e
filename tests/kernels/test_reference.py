"""The reference on cases small enough to work out by hand, and against PyTorch's own ops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cdgen.kernels import reference
from cdgen.kernels.sampling_params import RowStatus, SampleOutput, SamplingParams

INF = math.inf
GREEDY = SamplingParams(temperature=0.0)


def draw(
    good: list[list[float]] | torch.Tensor,
    bad: list[list[float]] | torch.Tensor | None = None,
    params: SamplingParams = GREEDY,
    vocab_size: int | None = None,
) -> SampleOutput:
    """Draw with row r as sequence r, its token at position 7."""
    g = torch.as_tensor(good)
    b = torch.zeros_like(g) if bad is None else torch.as_tensor(bad)
    ids = torch.arange(len(g))
    positions = torch.full_like(ids, 7)
    return reference.sample_contrastive(g, b, params, 1, ids, positions, vocab_size or g.shape[1])


def noise_of(rows: int, vocab: int) -> torch.Tensor:
    """Return the noise that `draw` uses."""
    words = reference.random_words(1, torch.arange(rows), torch.full((rows,), 7), vocab)
    return reference.gumbel_from_words(words)


def below(x: float) -> float:
    """Return the fp32 number just below x."""
    return float(torch.nextafter(torch.tensor(x), torch.tensor(-INF)))


# The plausible set.


@pytest.mark.parametrize(
    ("alpha", "good", "size"),
    [
        (0.5, [0.0, math.log(0.5), -3.0], 2),  # exactly on the threshold counts
        (0.5, [0.0, below(math.log(0.5)), -3.0], 1),  # one ulp below it does not
        (0.1, [5.0, 5.0 - 2.3, 5.0 - 2.31], 2),  # ln 0.1 = -2.3026
        (1.0, [2.0, 1.99, 2.0], 2),  # the argmax and its exact ties
        (0.0, [2.0, -80.0, -INF], 2),  # everything but -inf
        (0.0, [-INF, -INF, -9.0], 1),
    ],
)
def test_plausible_set_is_everything_from_the_threshold_up(
    alpha: float, good: list[float], size: int
) -> None:
    assert draw([good], params=SamplingParams(alpha=alpha)).plausible.tolist() == [size]


def test_plausible_set_does_not_depend_on_temperature() -> None:
    good = [[3.0, 2.0, 1.0, 0.0, -1.0]]
    for temperature in (0.0, 0.01, 1.0, 100.0):
        out = draw(good, params=SamplingParams(alpha=0.1, temperature=temperature))
        assert out.plausible.tolist() == [3]


def test_bfloat16_threshold_is_taken_in_fp32() -> None:
    # ln 0.5 rounds up to -0.69140625 in bf16, above the fp32 threshold; the next one down is below.
    good = torch.tensor([[0.0, -0.69140625, -0.6953125]], dtype=torch.bfloat16)
    assert draw(good, params=SamplingParams(alpha=0.5)).plausible.tolist() == [2]


# The score.


@pytest.mark.parametrize(
    ("params", "token"),
    [
        (SamplingParams(alpha=0.0, temperature=0.0), 2),  # scores 1, -1, 5
        (SamplingParams(alpha=0.3, temperature=0.0), 0),  # token 2 is not plausible
        (SamplingParams(alpha=0.0, temperature=0.0, bad_weight=0.0), 1),  # scores 1, 2, 0
        (SamplingParams(1.5, 0.5, alpha=0.0, temperature=0.0), 2),  # O'Brien: 1.5, 1.5, 2.5
        (SamplingParams(1.5, 0.5, alpha=0.3, temperature=0.0), 0),  # a tie: the lowest id
    ],
)
def test_greedy_takes_the_best_score_and_of_ties_the_lowest_id(
    params: SamplingParams, token: int
) -> None:
    assert draw([[1.0, 2.0, 0.0]], [[0.0, 3.0, -5.0]], params).tokens.tolist() == [token]


def test_draw_is_the_argmax_of_score_plus_noise() -> None:
    good, bad = torch.randn(2, 64, 40, generator=torch.Generator().manual_seed(0))
    params = SamplingParams(alpha=0.0, temperature=0.7, bad_weight=0.4)
    expected = ((good - 0.4 * bad) / 0.7 + noise_of(64, 40)).argmax(-1)
    assert draw(good, bad, params).tokens.tolist() == expected.tolist()


def test_equal_models_with_equal_weights_draw_uniformly_from_the_plausible_set() -> None:
    good = 2 * torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    params = SamplingParams(alpha=0.1)
    plausible = good >= good.amax(-1, keepdim=True) + params.log_alpha
    expected = noise_of(64, 40).masked_fill(~plausible, -INF).argmax(-1)
    assert draw(good, good, params).tokens.tolist() == expected.tolist()


def test_without_weight_bad_is_not_read() -> None:
    good = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))
    params = SamplingParams(alpha=0.0, bad_weight=0.0)
    out = draw(good, torch.full_like(good, math.nan), params)
    assert out.tokens.tolist() == (good + noise_of(16, 40)).argmax(-1).tolist()


def test_constants_added_to_the_logits_change_nothing() -> None:
    # Multiples of 1/8 plus 64: every sum is exact, so the draws must be equal, not nearly so.
    good, bad = torch.randint(-40, 40, (2, 32, 50), generator=torch.Generator().manual_seed(0)) / 8
    params = SamplingParams(alpha=0.1, top_k=8, top_p=0.9, min_p=0.05)
    out, shifted = draw(good, bad, params), draw(good + 64, bad - 64, params)
    assert out.tokens.tolist() == shifted.tokens.tolist()
    assert out.kept.tolist() == shifted.kept.tolist()


def test_temperature_divides_the_score() -> None:
    good, bad = torch.randn(2, 32, 50, generator=torch.Generator().manual_seed(0))
    hot = draw(good, bad, SamplingParams(temperature=2.0, top_p=0.9))
    halved = draw(good, bad, SamplingParams(0.5, 0.5, top_p=0.9))
    assert hot.tokens.tolist() == halved.tokens.tolist()
    assert hot.kept.tolist() == halved.kept.tolist()


def test_padding_columns_are_not_there() -> None:
    good = torch.tensor([[1.0, 2.0, 0.0, 99.0, math.nan, INF]])
    bad = torch.tensor([[0.0, 0.0, 0.0, INF, math.nan, math.nan]])
    out = draw(good, bad, vocab_size=3)
    assert (out.tokens.tolist(), out.status.tolist()) == ([1], [RowStatus.OK])
    assert out.plausible.tolist() == [3]


# Truncation.


@pytest.mark.parametrize(
    ("params", "score", "kept"),
    [
        (SamplingParams(), [1.0, -INF, 0.0], [0, 2]),
        (SamplingParams(top_k=2), [0.0, 5.0, 1.0, 3.0], [1, 3]),
        (SamplingParams(top_k=3), [0.0, 5.0, 0.0, 5.0], [0, 1, 3]),  # of ties, the lowest id
        (SamplingParams(top_k=9), [0.0, 5.0, -INF], [0, 1]),
        (SamplingParams(top_p=0.5), [0.0] * 4, [0, 1]),  # the prefix reaches 0.5 exactly
        (SamplingParams(top_p=0.51), [0.0] * 4, [0, 1, 2]),
        (SamplingParams(top_p=1e-9), [0.0, 3.0, 3.0], [1]),  # at least one
        (SamplingParams(top_p=0.8), [math.log(x) for x in (0.1, 0.5, 0.2, 0.2)], [1, 2, 3]),
        (
            SamplingParams(top_p=0.5, top_k=2),
            [0.0] * 4,
            [0],
        ),  # the mass is that of the tokens that top-k kept
        (
            SamplingParams(min_p=0.1),
            [0.0, math.log(0.1), -2.31],
            [0, 1],
        ),  # exactly on the threshold counts
        (SamplingParams(min_p=1.0), [2.0, 1.0, 2.0], [0, 2]),
        (SamplingParams(min_p=0.1, top_k=2), [0.0, -1.0, -5.0], [0, 1]),
        (SamplingParams(min_p=0.5, top_k=3, top_p=0.9), [0.0, -0.1, -5.0, -0.2, -9.0], [0, 1, 3]),
    ],
)
def test_truncation(params: SamplingParams, score: list[float], kept: list[int]) -> None:
    keep = reference.truncate(torch.tensor([score]), params)
    assert keep[0].nonzero().flatten().tolist() == kept


def test_truncation_orders_by_score_not_by_good() -> None:
    params = SamplingParams(alpha=0.0, top_k=1)
    assert draw([[3.0, 2.0, 1.0]], [[9.0, 0.0, 0.0]], params).tokens.tolist() == [1]


# Rows that cannot be sampled.


@pytest.mark.parametrize(
    ("good", "bad", "status"),
    [
        ([0.0, math.nan, 1.0], [0.0, 0.0, 0.0], RowStatus.GOOD_NOT_FINITE),
        ([0.0, INF, 1.0], [0.0, 0.0, 0.0], RowStatus.GOOD_NOT_FINITE),
        ([-90.0, math.nan, 1.0], [math.nan, 0.0, 0.0], RowStatus.GOOD_NOT_FINITE),
        ([-INF, -INF, -INF], [0.0, 0.0, 0.0], RowStatus.NO_FINITE_GOOD),
        ([0.0, 1.0, -90.0], [math.nan, 0.0, 0.0], RowStatus.BAD_NOT_FINITE),
        ([0.0, 1.0, -90.0], [INF, 0.0, 0.0], RowStatus.BAD_NOT_FINITE),
        ([0.0, 1.0, -90.0], [-INF, 0.0, 0.0], RowStatus.BAD_NOT_FINITE),
        ([3e38, 0.0, 0.0], [-3e38, 0.0, 0.0], RowStatus.SCORE_OVERFLOW),
        ([0.0, 1.0, -90.0], [0.0, 0.0, math.nan], RowStatus.OK),
        ([0.0, 1.0, -INF], [0.0, 0.0, -INF], RowStatus.OK),
    ],
)
def test_status(good: list[float], bad: list[float], status: RowStatus) -> None:
    whole = [0.0, 1.0, -90.0]
    out = draw([whole, good, whole], [[0.0] * 3, bad, [0.0] * 3])
    assert out.status.tolist() == [RowStatus.OK, status, RowStatus.OK]
    sampled = status == RowStatus.OK
    assert out.tokens.tolist() == [1, 1 if sampled else -1, 1]
    assert out.plausible.tolist() == out.kept.tolist() == [2, 2 if sampled else 0, 2]


# Random numbers.


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_known_answers(counter: str, key: str, words: str) -> None:
    """The answers are the philox4x32 10 lines of kat_vectors in the Random123 distribution."""
    low, high = (int(word, 16) for word in key.split())
    block = torch.tensor([int(word, 16) for word in counter.split()])
    out = reference.philox4x32(block, low | high << 32)
    assert [f"{word:08x}" for word in out.tolist()] == words.split()


def test_counter_is_token_block_position_and_sequence() -> None:
    seed, sequence, position = 0x0123456789ABCDEF, 0x7EDCBA9876543210, 2**31
    words = reference.random_words(seed, torch.tensor([sequence]), torch.tensor([position]), 11)
    for token in range(11):
        counter = torch.tensor([token >> 2, position, sequence & 0xFFFFFFFF, sequence >> 32])
        assert words[0, token] == reference.philox4x32(counter, seed)[token & 3]


def test_gumbel_noise_is_finite_and_falls_as_the_word_grows() -> None:
    edges = [2**k + d for k in range(33) for d in (-2, -1, 0, 1, 2)]
    random = torch.randint(2**32, (100_000,), generator=torch.Generator().manual_seed(0))
    edge = torch.tensor([x for x in edges if 0 <= x < 2**32])
    words = torch.cat([edge, random]).sort().values
    noise = reference.gumbel_from_words(words)
    assert words[0] == 0 and words[-1] == 2**32 - 1
    assert noise.isfinite().all()
    assert -2.9 < noise[-1] < -2.8 and 22.8 < noise[0] < 22.9
    assert (noise.diff() <= 0).all()


# The other ops, against PyTorch's own.


def test_decode_attention_is_softmax_attention_over_the_first_keys() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 8, generator=generator)
    keys, values = torch.randn(2, 3, 2, 9, 8, generator=generator)
    lengths = torch.tensor([1, 5, 9])
    out = reference.decode_attention(query, keys, values, lengths, scale=0.3)
    for row, length in enumerate(lengths.tolist()):
        q, k, v = query[row, :, None], keys[row, :, :length], values[row, :, :length]
        expected = F.scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=True)
        torch.testing.assert_close(out[row], expected[:, 0])


def test_dropout_depends_on_everything_in_its_counter() -> None:
    ids, lengths = torch.tensor([3, 3, 4]), torch.tensor([40, 41, 40])
    keep = reference.dropout_keep(5, 0.5, 1, ids, lengths, heads=2, keys=64)
    other_layer = reference.dropout_keep(5, 0.5, 2, ids, lengths, heads=2, keys=64)
    other_seed = reference.dropout_keep(6, 0.5, 1, ids, lengths, heads=2, keys=64)
    masks = [*keep.flatten(0, 1), *other_layer.flatten(0, 1), *other_seed.flatten(0, 1)]
    for i, mask in enumerate(masks):
        assert 10 < mask.sum() < 54
        assert all((mask != other).sum() > 10 for other in masks[:i])


def test_rms_norm() -> None:
    x, weight = torch.tensor([[3.0, -4.0]]), torch.tensor([1.0, 2.0])
    expected = torch.tensor([[3.0, -8.0]]) / math.sqrt(12.5 + 0.5)
    torch.testing.assert_close(reference.rms_norm(x, weight, 0.5), expected)


def test_rotary_turns_each_pair_by_its_angle() -> None:
    x = torch.tensor([[[1.0, 2.0, 0.0, 3.0]]])  # pairs (1, 0) and (2, 3)
    quarter, half = math.pi / 2, math.pi
    angle = torch.tensor([[quarter, half]])
    out = reference.rotary(x, angle.cos(), angle.sin())
    torch.testing.assert_close(out, torch.tensor([[[0.0, -2.0, 1.0, -3.0]]]), atol=1e-6, rtol=0)


def test_swiglu() -> None:
    gate_up = torch.tensor([[0.0, 1.0, -2.0, 5.0, 3.0, 0.5]])  # gate 0, 1, -2; up 5, 3, 0.5
    expected = torch.tensor([[0.0, 3 / (1 + math.exp(-1)), -1 / (1 + math.exp(2))]])
    torch.testing.assert_close(reference.swiglu(gate_up), expected)
