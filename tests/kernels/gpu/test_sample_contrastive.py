"""The Triton sampler against the reference and the native kernel, draw for draw: interpreted where
there is no GPU, compiled where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from grids import thinned
from hypothesis import HealthCheck, given, settings
from sampling_cases import (
    DTYPES,
    KEY_TOLERANCE,
    PARAMETERS,
    SEED,
    VOCABULARIES,
    coordinates,
    logit_rows,
    rows_and_params,
)

from cdgen.kernels import reference
from cdgen.kernels.gpu import sample_contrastive as gpu
from cdgen.kernels.gpu.philox import gumbel
from cdgen.kernels.sample_contrastive import sample_contrastive
from cdgen.kernels.sampling_params import RowStatus, SampleOutput, SamplingParams

INF = math.inf
COMPILED = torch.cuda.is_available()
# NumPy, under the interpreter, warns of what a GPU computes in silence: inf - inf, 3e38 + 3e38.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
# The interpreter takes some milliseconds for an operation on a tile: one row of each kind there.
ROWS = 64 if COMPILED else 8
SMALL_VOCABULARIES = VOCABULARIES[:9] if COMPILED else (1, 129, 1271)
CD = SamplingParams(top_k=50, top_p=0.95)
DENSE = SamplingParams(alpha=0.0, top_p=0.9)
VANILLA = SamplingParams(alpha=0.0, bad_weight=0.0)


def draw(
    good: torch.Tensor,
    bad: torch.Tensor | None,
    params: SamplingParams,
    device: str = "cpu",
    backend: str = "triton",
    noise: tuple[int, torch.Tensor, torch.Tensor] | None = None,
    **arguments: Any,
) -> SampleOutput:
    """Draw on `device`; the tensors that are passed and returned are on the CPU."""
    seed, ids, positions = noise or coordinates(len(good))
    out = sample_contrastive(
        good.to(device),
        None if bad is None else bad.to(device),
        params,
        seed=seed,
        sequence_ids=ids.to(device),
        positions=positions.to(device),
        backend=backend,
        **arguments,
    )
    return SampleOutput(out.tokens.cpu(), out.status.cpu(), out.plausible.cpu(), out.kept.cpu())


def columns(out: SampleOutput, rows: Any = slice(None)) -> list[list[int]]:
    return [x[rows].tolist() for x in (out.tokens, out.status, out.plausible, out.kept)]


def same(a: SampleOutput, b: SampleOutput) -> None:
    assert columns(a) == columns(b)


def tolerance(params: SamplingParams) -> float:
    return KEY_TOLERANCE if params.temperature else 0.0


@cache  # one answer serves both backends
def other_draw(vocab: int, dtype: torch.dtype, name: str, backend: str) -> SampleOutput:
    good, bad = (x[:ROWS] for x in logit_rows(vocab, dtype))
    return draw(good, bad, PARAMETERS[name], backend=backend)


def check_against(
    backends: tuple[str, ...],
    vocab: int,
    dtype: torch.dtype,
    name: str,
    device: str,
    assert_same_draws: Callable[..., None],
) -> None:
    good, bad = (x[:ROWS] for x in logit_rows(vocab, dtype))
    params, noise = PARAMETERS[name], coordinates(len(good))
    out = draw(good, bad, params, device)
    for backend in backends:
        expected = other_draw(vocab, dtype, name, backend)
        assert_same_draws(out, expected, good, bad, params, noise, tolerance(params))


@pytest.mark.parametrize(
    "vocab, dtype, name", thinned(SMALL_VOCABULARIES, DTYPES, PARAMETERS.keys())
)
def test_same_draws_as_the_reference_and_the_native_kernel(
    vocab: int, dtype: torch.dtype, name: str, device: str, assert_same_draws: Callable[..., None]
) -> None:
    # Where there is no native build, the reference alone is asked: a GPU machine may have no C++.
    backends = ("reference",) if COMPILED else ("reference", "cpu")
    check_against(backends, vocab, dtype, name, device, assert_same_draws)


LARGE = [
    (16384, "cd"),
    pytest.param(16384, "all-three", marks=pytest.mark.thorough),
    (50257, "cd"),
    pytest.param(50257, "cd-alpha-0", marks=pytest.mark.thorough),
    (128256, "cd"),
]


@pytest.mark.parametrize(("vocab", "name"), LARGE)
def test_same_draws_from_large_vocabularies(
    vocab: int, name: str, device: str, assert_same_draws: Callable[..., None]
) -> None:
    """These have several tiles, rows of an odd length, parts of rows, and rows for the dense
    kernel."""
    check_against(("reference",), vocab, torch.bfloat16, name, device, assert_same_draws)


@settings(
    max_examples=300 if COMPILED else 20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=rows_and_params())
def test_same_draws_as_the_reference_on_anything(
    device: str,
    assert_same_draws: Callable[..., None],
    case: tuple[torch.Tensor, torch.Tensor, SamplingParams],
) -> None:
    good, bad, params = case
    out, expected = draw(good, bad, params, device), draw(good, bad, params, backend="reference")
    noise = coordinates(len(good))
    assert_same_draws(out, expected, good, bad, params, noise, tolerance(params))


# Block sizes, parts and lists.


def mixed_rows(vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return peaked, broad, flat and tied rows; some fit short lists and others do not."""
    generator = torch.Generator().manual_seed(vocab)
    noise, bad = torch.randn(2, 6, vocab, generator=generator)
    good = noise * torch.tensor([8.0, 2.0, 0.7, 0.0, 0.0, 1.0])[:, None]
    good[5], bad[3] = good[5].round(), 0.0
    bad[5] = bad[5].round()
    return good, bad


def dense_sizes(**tiles: int) -> dict[str, dict[str, int]]:
    """Return the sizes of both variants of the dense kernel, with other tiles."""
    return {name: {**tiles, "num_warps": 4} for name in ("DENSE_SIZES", "LONG_DENSE_SIZES")}


SIZES: dict[str, dict[str, Any]] = {
    "short lists": {"CAPACITY": 16},
    "lists of one": {"CAPACITY": 1, "SORTED": 2},
    "long sorted lists": {"CAPACITY": 1, "SORTED": 128},
    "other tiles": {
        "BLOCK": 128, "GATHER": 32, "LANES": 16,
        **dense_sizes(BLOCK=64, TALLY_BLOCK=32),
    },
    "other tiles, short lists": {
        "BLOCK": 128, "CAPACITY": 16,
        **dense_sizes(BLOCK=256, TALLY_BLOCK=128),
    },
    "parts": {"BLOCK": 32, "PROGRAMS": 40},
    "parts, short lists": {"BLOCK": 32, "PROGRAMS": 40, "CAPACITY": 16},
}  # fmt: skip


@pytest.mark.parametrize(
    "name, sizes", thinned(["cd", "cd-cold", "greedy", "all-three", "top-p", "top-k"], SIZES.keys())
)
def test_sizes_change_no_bit(
    name: str, sizes: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel that finishes a row, and its tiles, do not show in any result."""
    good, bad = mixed_rows(700 if COMPILED else 250)
    expected = draw(good, bad, PARAMETERS[name], device)
    for size, value in SIZES[sizes].items():
        monkeypatch.setattr(gpu, size, value)
    same(draw(good, bad, PARAMETERS[name], device), expected)


@pytest.mark.parametrize(
    "truncation",
    [{"top_k": 20, "min_p": 0.3}, {"top_p": 0.95, "min_p": 0.3}, {"top_k": 20, "top_p": 0.5}],
    ids=["top-k min-p", "top-p min-p", "top-k top-p"],
)
def test_a_sorted_list_is_cut_by_whatever_cuts_first(
    truncation: dict[str, Any], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "CAPACITY", 1)
    good, bad = mixed_rows(250)
    for temperature in (1.0, 0.0):
        params = SamplingParams(alpha=0.0, temperature=temperature, **truncation)
        same(draw(good, bad, params, device), draw(good, bad, params, backend="reference"))


def test_few_rows_are_split_and_many_are_not() -> None:
    assert [gpu.splits_of(rows, 50257) for rows in (1, 16, 32, 255, 256, 4096)] == [
        16,
        16,
        8,
        2,
        1,
        1,
    ]
    assert gpu.splits_of(1, 128256) == 32 and gpu.splits_of(1, gpu.BLOCK) == 1


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        (SamplingParams(alpha=0.0, top_k=1234), 1234),
        (SamplingParams(alpha=0.0, top_p=0.25), 500),
        (SamplingParams(alpha=0.0, top_k=1600, top_p=0.25), 400),
        (SamplingParams(alpha=0.0, min_p=0.5), 2000),
    ],
)
def test_of_equal_tokens_the_first_are_kept(
    device: str, truncation: SamplingParams, kept: int
) -> None:
    """The cut falls among 2000 ties, which differ only in their ids."""
    good, bad = torch.zeros(4, 2000), torch.full((4, 2000), -3.0)
    out = draw(good, bad, truncation, device)
    assert out.kept.tolist() == [kept] * 4
    assert out.tokens.max() < kept
    same(out, draw(good, bad, truncation, backend="reference"))


@pytest.mark.parametrize("capacity", [1024, 1], ids=["lists", "dense"])
@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        ({"top_p": 0.5}, 20),  # the 20th takes the mass to exactly a half
        ({"top_p": 1e-300}, 1),
        ({"min_p": 1.0}, 40),
        ({"top_k": 40}, 40),
    ],
)
def test_edges_of_truncation(
    device: str,
    truncation: dict[str, Any],
    kept: int,
    capacity: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "CAPACITY", capacity)
    good, params = torch.zeros(2, 40), SamplingParams(bad_weight=0.0, **truncation)
    out = draw(good, None, params, device)
    assert out.kept.tolist() == [kept, kept]
    same(out, draw(good, None, params, backend="reference"))


@pytest.mark.parametrize("capacity", [1024, 1], ids=["lists", "dense"])
def test_small_masses_add_up(device: str, capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """top-p cuts between 999 tokens of 1.5e-8 each, at a 66th of 1e-5."""
    monkeypatch.setattr(gpu, "CAPACITY", capacity)
    good = torch.full((1, 1000), -18.0)
    good[0, 0] = 0.0
    params = SamplingParams(bad_weight=0.0, alpha=0.0, top_p=1 - 1e-5)
    out = draw(good, None, params, device)
    assert 300 < out.kept < 400
    same(out, draw(good, None, params, backend="reference"))


def one_tile_per_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the dense kernel tiles of four tokens, which share a Philox block."""
    monkeypatch.setattr(gpu, "CAPACITY", 1)
    for name, sizes in dense_sizes(BLOCK=4, TALLY_BLOCK=4).items():
        monkeypatch.setattr(gpu, name, sizes)


def test_tiles_are_passed_over_only_where_no_token_can_win(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_tile_per_block(monkeypatch)
    good = torch.zeros(400 if COMPILED else 12, 64)
    same(draw(good, None, VANILLA, device), draw(good, None, VANILLA, backend="reference"))


def test_a_token_that_wins_by_a_hair_is_not_passed_over(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token 4, first of the second tile, is 2e-5 ahead of token 0, and no other token is finite.
    Its noise is large, so its bound is close to its true value."""
    one_tile_per_block(monkeypatch)
    ids = torch.arange(300_000)
    words = reference.random_words(SEED, ids, torch.zeros_like(ids), 8)
    close = (words[:, 4] == words[:, 4:].amin(1)) & (words[:, 4] < 2**32 * 1e-4)
    noise = reference.gumbel_from_words(words[close]).double()
    assert len(noise) > 15
    good = torch.full((len(noise), 8), -INF)
    good[:, 0] = 0.0
    good[:, 4] = noise[:, 0] - noise[:, 4] + 2e-5
    where = (SEED, ids[close], torch.zeros_like(ids[close]))
    assert draw(good, None, VANILLA, device, noise=where).tokens.tolist() == [4] * len(noise)


def test_a_list_that_is_full_before_its_row_ends(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size, value in {"CAPACITY": 16, "GATHER": 16, "BLOCK": 16, "PROGRAMS": 1}.items():
        monkeypatch.setattr(gpu, size, value)
    params = SamplingParams(bad_weight=0.0)
    for plausible in (15, 16, 17, 40):
        good = torch.where(torch.arange(40) < plausible, 0.0, -9.0)[None]
        out = draw(good, None, params, device)
        assert out.plausible == plausible
        same(out, draw(good, None, params, backend="reference"))


def test_parts_with_nothing_but_ties_of_the_maximum(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "BLOCK", 32)
    good, params = torch.zeros(2, 256), SamplingParams(bad_weight=0.0, alpha=1.0)
    assert gpu.splits_of(2, 256) == 8
    out = draw(good, None, params, device)
    assert out.plausible.tolist() == [256, 256]
    same(out, draw(good, None, params, backend="reference"))


@triton.jit
def gumbel_kernel(words, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, gumbel(tl.load(words + at).to(tl.uint32)))


def test_noise_of_the_smallest_and_the_largest_words(device: str) -> None:
    """Noise is within three roundings of fp32 of the fp64 noise of the same u: where u rounds to 0
    or 1, where 1 - u rounds, and in between."""
    rare = [0, 1, 2, 127, 255, 256, 257, 5000, 10**6, 10**8, 2**31]
    words = torch.tensor(rare + [2**32 - 1 - word for word in rare] + [0] * 10)
    out = torch.empty(32, device=device)
    gumbel_kernel[(1,)](words.to(device), out, N=32)
    u = ((words.float() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24).double()
    exact = -torch.log(-torch.log1p(-u))
    assert ((out.cpu() - exact).abs() <= 3 * 2.0**-24 * exact.abs().clamp(min=1)).all()


def test_equal_keys_go_to_the_lowest_id(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 2**27, fp32 numbers are 16 apart: noise within 8 vanishes, and stronger noise lifts a
    token to exactly the key of a token with a higher score. Lists and the dense kernel agree."""
    generator = torch.Generator().manual_seed(0)
    good = 2.0**27 + 16 * torch.randint(2, (10_000, 64), generator=generator)
    expected = draw(good, None, VANILLA, backend="reference").tokens
    lifted = (expected != good.argmax(-1)).nonzero().flatten()
    rows = torch.arange(len(good)) if COMPILED else lifted[:40]
    assert len(lifted) >= 40
    seed, ids, positions = coordinates(len(good))
    for capacity in (64, 8):
        monkeypatch.setattr(gpu, "CAPACITY", capacity)
        noise = (seed, ids[rows], positions[rows])
        out = draw(good[rows], None, VANILLA, device, noise=noise)
        assert torch.equal(out.tokens, expected[rows])


def test_every_bit_of_seed_sequence_and_position_counts(device: str) -> None:
    ids = torch.tensor([0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 0, 0, 0, 0])
    positions = torch.tensor([0, 0, 0, 0, 0, 0, 1, 2**31 - 1, 2**31, 2**32 - 1])
    good, params = torch.zeros(len(ids), 200), SamplingParams(bad_weight=0.0)
    seen = set()
    for seed in (0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1):
        noise = (seed, ids, positions)
        out = draw(good, None, params, device, noise=noise)
        same(out, draw(good, None, params, backend="reference", noise=noise))
        seen.add(tuple(out.tokens.tolist()))
    assert len(seen) == 6


def test_positions_may_be_int32(device: str) -> None:
    good, ids = torch.zeros(3, 1000), torch.arange(3)
    positions = torch.tensor([0, 5, 2**31 - 1])
    wide, narrow = (
        draw(good, None, VANILLA, device, noise=(1, ids, p)) for p in (positions, positions.int())
    )
    same(wide, narrow)


# Memory, neighbours and place.


@pytest.mark.parametrize("dtype, params", thinned(DTYPES, {"cd": CD, "dense": DENSE}, keep_every=2))
def test_rows_may_lie_any_distance_apart(
    dtype: torch.dtype, params: SamplingParams, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows start at every remainder of 16 logits, between NaNs that must not be seen."""
    monkeypatch.setattr(gpu, "CAPACITY", 128)
    monkeypatch.setattr(gpu, "BLOCK", 64)
    good, bad = (x.to(dtype) for x in mixed_rows(333))
    expected = draw(good, bad, params, device)
    wide_good = torch.full((12, 1001), math.nan, dtype=dtype, device=device)
    wide_bad = torch.full((6, 335), math.nan, dtype=dtype, device=device)
    wide_good[::2, 5:338], wide_bad[:, 1:334] = good.to(device), bad.to(device)
    same(draw(wide_good[::2, 5:338], wide_bad[:, 1:334], params, device), expected)
    padded = [x[:, :336] for x in (wide_good[::2, 5:], torch.cat([wide_bad[:, 1:]] * 2, dim=1))]
    same(draw(*padded, params, device, vocab_size=333), expected)


def test_one_row_may_stand_for_all(device: str) -> None:
    good, bad = (x[1:2] for x in mixed_rows(333))
    good, bad = good.to(device), bad.to(device)
    expanded = draw(good.expand(8, -1), bad.expand(8, -1), CD, device)
    same(expanded, draw(good.repeat(8, 1), bad.repeat(8, 1), CD, device))
    assert len(set(expanded.tokens.tolist())) > 1


@pytest.mark.parametrize("params", [CD, DENSE], ids=["cd", "dense"])
def test_order_and_batch_change_no_bit(
    params: SamplingParams, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "BLOCK", 64)
    monkeypatch.setattr(gpu, "PROGRAMS", 8)  # so that a row alone is split and one of many is not
    good, bad = (torch.cat([x, x.flip(0)]) for x in mixed_rows(1500 if COMPILED else 200))
    seed, ids, positions = coordinates(len(good))
    all_rows = draw(good, bad, params, device)
    order = torch.randperm(len(good), generator=torch.Generator().manual_seed(0))
    for rows in (order, [0], [3], [11]):
        noise = (seed, ids[rows], positions[rows])
        some = draw(good[rows], bad[rows], params, device, noise=noise)
        assert columns(some) == columns(all_rows, rows)


# Rows that cannot be sampled.


@pytest.mark.parametrize(
    "side, value, params, capacity",
    thinned(
        ["good", "bad"],
        {"nan": math.nan, "-nan": -math.nan, "inf": INF, "-inf": -INF},
        {"cd": CD, "dense": DENSE, "vanilla": VANILLA},
        {"lists": 512, "dense": 2},
    ),
)
def test_a_value_that_is_not_finite_is_reported_for_its_row_alone(
    side: str,
    value: float,
    params: SamplingParams,
    capacity: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "CAPACITY", capacity)
    monkeypatch.setattr(gpu, "BLOCK", 128)
    good, bad = torch.randn(2, 9, 300, generator=torch.Generator().manual_seed(0))
    good[1:5, 7] = 9.0  # plausible in these rows, not in those
    good[5:8, 7] = -90.0
    damaged = {"good": good.clone(), "bad": bad.clone()}
    damaged[side][1:8:2, 7] = value
    # A tail, a vector's end and the middle of a tile.
    damaged[side][2, 299], damaged[side][6, 128], damaged[side][8, 63] = value, value, value
    out = draw(damaged["good"], damaged["bad"], params, device)
    same(out, draw(damaged["good"], damaged["bad"], params, backend="reference"))
    whole = draw(good, bad, params, device)
    assert columns(out, [0, 4]) == columns(whole, [0, 4])
    if side == "good" and value != -INF:
        assert (out.status[[1, 2, 3, 5, 6, 7, 8]] == RowStatus.GOOD_NOT_FINITE).all()
    elif side == "bad" and params.bad_weight:
        assert (out.status[[1, 3]] == RowStatus.BAD_NOT_FINITE).all()
    else:
        assert (out.status == RowStatus.OK).all()


@pytest.mark.parametrize("capacity", [512, 2], ids=["lists", "dense"])
def test_a_broken_logit_of_bad_outranks_an_overflow(
    capacity: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds in one tile, and in two tiles in either order."""
    for size, value in {"CAPACITY": capacity, "LANES": 16}.items():
        monkeypatch.setattr(gpu, size, value)
    good, bad = torch.full((4, 200), 3e38), torch.zeros(4, 200)
    for row, (overflows, breaks) in enumerate([(5, 6), (5, 100), (100, 5), (100, 199)]):
        bad[row, overflows], bad[row, breaks] = -3e38, math.nan
    out = draw(good, bad, SamplingParams(), device)
    assert out.status.tolist() == [RowStatus.BAD_NOT_FINITE] * 4
    same(out, draw(good, bad, SamplingParams(), backend="reference"))


@pytest.mark.parametrize("vocab", [1, 128, 2000])
@pytest.mark.parametrize("params", [CD, DENSE, SamplingParams(temperature=0.0)])
def test_row_without_a_finite_logit(params: SamplingParams, vocab: int, device: str) -> None:
    good, bad = torch.randn(2, 3, vocab, generator=torch.Generator().manual_seed(0))
    good[1] = -INF
    out = draw(good, bad, params, device)
    assert columns(out, 1) == [-1, RowStatus.NO_FINITE_GOOD, 0, 0]
    same(out, draw(good, bad, params, backend="reference"))


@pytest.mark.parametrize(
    "params",
    [
        VANILLA,
        SamplingParams(alpha=0.0),
        SamplingParams(alpha=0.0, temperature=0.0),
        SamplingParams(alpha=0.0, temperature=0.7, top_k=20),
        DENSE,
    ],
    ids=["vanilla", "contrast", "greedy", "cold top-k", "top-p"],
)
def test_holes_are_counted_and_never_drawn(
    params: SamplingParams, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dense kernel does not mask logits of -inf, whatever BAD says there."""
    monkeypatch.setattr(gpu, "CAPACITY", 16)
    for sizes in ("DENSE_SIZES", "LONG_DENSE_SIZES"):
        monkeypatch.setattr(gpu, sizes, {"BLOCK": 64, "TALLY_BLOCK": 32, "num_warps": 4})
    good, bad = torch.randn(2, 6, 300, generator=torch.Generator().manual_seed(3))
    holes = torch.zeros(6, 300, dtype=torch.bool)
    holes[0, ::2] = holes[1, 1:] = holes[2, 64:128] = holes[3, 256:] = holes[4, :299] = True
    good[holes] = -INF
    answers = torch.tensor([math.nan, INF, -INF, 3e38, 0.0])
    bad = torch.where(holes, answers[torch.arange(300) % 5], bad)
    out = draw(good, bad, params, device)
    assert out.status.tolist() == [RowStatus.OK] * 6
    assert out.plausible.tolist() == (~holes).sum(1).tolist()
    assert not holes.gather(1, out.tokens[:, None]).any()
    same(out, draw(good, bad, params, backend="reference"))


@pytest.mark.parametrize("vocab", [300, 2000])
@pytest.mark.parametrize("params", [CD, DENSE, SamplingParams(temperature=0.0)])
def test_overflow_of_a_score(params: SamplingParams, vocab: int, device: str) -> None:
    good, bad = torch.randn(2, 4, vocab, generator=torch.Generator().manual_seed(0))
    good[1, 100], bad[1, 100] = 3e38, -3e38  # finite logits, infinite score
    good[2, 100], bad[2, 100] = 3e38, 3e38  # the difference is finite
    out = draw(good, bad, params, device)
    assert out.status.tolist() == [0, RowStatus.SCORE_OVERFLOW, 0, 0]
    same(out, draw(good, bad, params, backend="reference"))


def test_a_weight_below_fp32_leaves_bad_unread(device: str) -> None:
    good, bad = torch.randn(4, 300), torch.full((4, 300), math.nan)
    params = SamplingParams(bad_weight=1e-60)
    out = draw(good, bad, params, device)
    assert (out.status == RowStatus.OK).all()
    same(out, draw(good, bad, params, backend="reference"))


# What torch makes of the op.


def op_arguments(device: str, vocab: int = 300) -> tuple[Any, ...]:
    good, bad = (x[:2].to(device) for x in mixed_rows(vocab))
    ids = torch.arange(len(good), device=device)
    rule = [1.0, 1.0, 1.0, math.log(0.1), -INF, gpu.mass_units(vocab)]
    return good, bad, None, None, None, rule, 50, 0.9, -5, ids, ids, vocab


def test_the_op_is_what_it_claims_to_be(device: str) -> None:
    torch.library.opcheck(torch.ops.cdgen.sample_contrastive, op_arguments(device))


def test_torch_compile_takes_the_op_whole(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdgen.kernels.dispatch.interpreting", lambda: True)  # not for its tracer
    good, bad = (x.to(device) for x in mixed_rows(300))
    ids = torch.arange(len(good), device=device)

    def step(good: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
        out = sample_contrastive(
            2 * good, bad, CD, seed=3, sequence_ids=ids, positions=ids, backend="triton"
        )
        return torch.where(out.status == 0, out.tokens, -1)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(good, bad), step(good, bad))


# On a GPU only.


@pytest.mark.gpu
@pytest.mark.parametrize("params", [CD, DENSE], ids=["cd", "dense"])
def test_more_than_2_to_the_31_logits(params: SamplingParams) -> None:
    rows, vocab = 45_000, 50257
    good = torch.empty(rows, vocab, dtype=torch.bfloat16, device="cuda")
    some = torch.tensor([0, 1, rows // 2, rows - 2, rows - 1], device="cuda")
    near = 3 * torch.randn(len(some), vocab, device="cuda").bfloat16()
    good.zero_()[:, 0] = 50.0
    good[some] = near
    bad = torch.zeros(1, vocab, dtype=torch.bfloat16, device="cuda").expand(rows, -1)
    ids = torch.arange(rows, device="cuda")
    out = sample_contrastive(good, bad, params, seed=9, sequence_ids=ids, positions=ids)
    few = sample_contrastive(
        near, bad[: len(some)], params, seed=9, sequence_ids=some, positions=some
    )
    assert columns(out, some) == columns(few)
    assert (out.tokens[2 : rows // 2] == 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("params", [CD, DENSE], ids=["cd", "dense"])
def test_a_graph_draws_afresh_at_each_replay(params: SamplingParams) -> None:
    good, bad = (x.cuda() for x in mixed_rows(5000))
    ids, positions = torch.arange(6, device="cuda"), torch.zeros(6, dtype=torch.int64).cuda()

    def step() -> SampleOutput:
        return sample_contrastive(good, bad, params, seed=2, sequence_ids=ids, positions=positions)

    step()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
        positions += 1
    positions.zero_()
    replayed = []
    for _ in range(20):
        graph.replay()
        replayed.append(columns(out))
    positions.zero_()
    for drawn in replayed:
        assert drawn == columns(step())
        positions += 1
    assert len({tuple(drawn[0]) for drawn in replayed}) > 10
