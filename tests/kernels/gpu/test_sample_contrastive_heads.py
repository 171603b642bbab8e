"""BAD's logits taken as dot products by the Triton sampler, from lists and from all of V."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton.language as tl
from grids import thinned
from head_cases import KEY_TOLERANCE, PARAMETERS, VOCAB, noise, problem

from cdgen.kernels import reference
from cdgen.kernels.gpu import sample_contrastive as gpu
from cdgen.kernels.gpu.sampling import heads
from cdgen.kernels.sample_contrastive import sample_contrastive_heads
from cdgen.kernels.sampling_params import RowStatus, SampleOutput, SamplingParams

COMPILED = torch.cuda.is_available()
ROWS = 40 if COMPILED else 8
CD = PARAMETERS["cd"]
# A capacity of 4 leaves most rows to the dense kernel, for which a product of rows is computed.
CAPACITIES = pytest.mark.parametrize("capacity", [1024, 4], ids=["lists", "dense"])
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


def draw(
    good: torch.Tensor,
    hidden: torch.Tensor,
    head: torch.Tensor,
    params: SamplingParams = CD,
    device: str = "cpu",
    backend: str = "triton",
    bad_bias: torch.Tensor | None = None,
    coordinates: tuple[int, torch.Tensor, torch.Tensor] | None = None,
    **arguments: Any,
) -> SampleOutput:
    """Draw on `device`; the tensors that are passed and returned are on the CPU."""
    seed, ids, positions = coordinates or noise(len(good))
    bias = None if bad_bias is None else bad_bias.to(device)
    out = sample_contrastive_heads(
        good.to(device),
        hidden.to(device),
        head.to(device),
        params,
        seed=seed,
        bad_bias=bias,
        sequence_ids=ids.to(device),
        positions=positions.to(device),
        backend=backend,
        **arguments,
    )
    return SampleOutput(out.tokens.cpu(), out.status.cpu(), out.plausible.cpu(), out.kept.cpu())


def columns(out: SampleOutput, rows: Any = slice(None)) -> list[list[int]]:
    return [x[rows].tolist() for x in (out.tokens, out.status, out.plausible, out.kept)]


HEADS = {
    "1-float32-bias": (1, torch.float32, True),
    "33-float32": (33, torch.float32, False),
    "33-bfloat16-bias": (33, torch.bfloat16, True),
    "64-float16": (64, torch.float16, False),
    "200-float16-bias": (200, torch.float16, True),
    "200-bfloat16": (200, torch.bfloat16, False),
}


@pytest.mark.parametrize(
    "kind, name, capacity", thinned(HEADS, PARAMETERS.keys(), {"lists": 1024, "dense": 4})
)
def test_same_draws_as_the_reference_and_the_native_kernel(
    kind: tuple[int, torch.dtype, bool],  # width of the head, its dtype, whether it has a bias
    name: str,
    capacity: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_draws: Callable[..., None],
) -> None:
    monkeypatch.setattr(gpu, "CAPACITY", capacity)
    width, dtype, with_bias = kind
    good, hidden, head, bias = problem(width, dtype, ROWS)
    params, bad_bias = PARAMETERS[name], bias if with_bias else None
    out = draw(good, hidden, head, params, device, bad_bias=bad_bias)
    bad = reference.linear(hidden, head, bad_bias)
    slack = 1 if params.top_p < 1 else 0  # a score's last bits may decide the prefix's last token
    for backend in ("reference",) if COMPILED else ("reference", "cpu"):
        expected = draw(good, hidden, head, params, backend=backend, bad_bias=bad_bias)
        assert_same_draws(out, expected, good, bad, params, noise(ROWS), KEY_TOLERANCE, slack)


@CAPACITIES
def test_whole_numbers_leave_no_room_for_rounding(
    capacity: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every product and sum is exact, so no draw may differ from the reference, nor between the two
    ways of summing."""
    monkeypatch.setattr(gpu, "CAPACITY", capacity)
    generator, rows = torch.Generator().manual_seed(0), ROWS if COMPILED else 4
    good = torch.randint(-6, 7, (rows, VOCAB), generator=generator).float()
    hidden = torch.randint(-3, 4, (rows, 33), generator=generator).bfloat16()
    head = torch.randint(-3, 4, (VOCAB, 33), generator=generator).bfloat16()
    bias = torch.randint(-3, 4, (VOCAB,), generator=generator).bfloat16()
    for params in PARAMETERS.values():
        out = draw(good, hidden, head, params, device, bad_bias=bias)
        expected = draw(good, hidden, head, params, backend="reference", bad_bias=bias)
        assert columns(out) == columns(expected)


@pytest.mark.skipif(COMPILED, reason="compiled kernels do not take another constant")
@pytest.mark.parametrize("pending", [0, pytest.param(3, marks=pytest.mark.thorough), 7])
def test_a_row_to_finish_is_seen_wherever_it_is(
    pending: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows' status are read at a time, and of 8 rows one has more tokens than its list."""
    monkeypatch.setattr(heads, "ROWS_AT_ONCE", tl.constexpr(2))
    monkeypatch.setattr(gpu, "CAPACITY", 4)
    good, hidden, head, _ = problem(33, torch.float32, ROWS)
    good[:, 1:] -= 100.0  # one token is plausible
    good[pending] = 0.0
    out, expected = (
        draw(good, hidden, head, device=device),
        draw(good, hidden, head, backend="reference"),
    )
    assert expected.plausible.tolist() == [VOCAB if row == pending else 1 for row in range(ROWS)]
    assert columns(out) == columns(expected)


@CAPACITIES
@pytest.mark.parametrize("good_dtype", [torch.bfloat16, torch.float16])
def test_good_may_have_another_dtype_than_the_head(
    good_dtype: torch.dtype,
    capacity: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_draws: Callable[..., None],
) -> None:
    monkeypatch.setattr(gpu, "CAPACITY", capacity)
    good, hidden, head, _ = problem(32, torch.float32, ROWS)
    good = good.to(good_dtype)
    out, expected = (
        draw(good, hidden, head, device=device),
        draw(good, hidden, head, backend="reference"),
    )
    bad = reference.linear(hidden, head, None)
    assert_same_draws(out, expected, good, bad, CD, noise(ROWS), KEY_TOLERANCE)


@CAPACITIES
def test_rows_and_strides_change_no_bit(
    capacity: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "CAPACITY", capacity)
    monkeypatch.setattr(gpu, "BLOCK", 64)
    monkeypatch.setattr(gpu, "PROGRAMS", 6)  # so that a row alone is split and one of many is not
    good, hidden, head, bias = problem(33, torch.bfloat16, ROWS)
    expected = draw(good, hidden, head, device=device, bad_bias=bias)
    wide_hidden = torch.full((ROWS, 3, 50), math.nan, dtype=torch.bfloat16, device=device)
    wide_head = torch.full((2 * VOCAB, 40), math.nan, dtype=torch.bfloat16, device=device)
    wide_hidden[:, 1, 7:40], wide_head[::2, 3:36] = hidden.to(device), head.to(device)
    out = draw(good, wide_hidden[:, 1, 7:40], wide_head[::2, 3:36], device=device, bad_bias=bias)
    assert columns(out) == columns(expected)
    seed, ids, positions = noise(ROWS)
    for rows in ([5, 0, 3], [6]):
        where = (seed, ids[rows], positions[rows])
        some = draw(good[rows], hidden[rows], head, device=device, bad_bias=bias, coordinates=where)
        assert columns(some) == columns(expected, rows)


@CAPACITIES
@pytest.mark.parametrize("where", ["hidden", "head", "bias"])
def test_a_value_that_is_not_finite_is_reported_for_its_row_alone(
    where: str, capacity: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "CAPACITY", capacity)
    good, hidden, head, bias = problem(33, rows=ROWS)
    good[:, 7] -= 100  # token 7 is plausible in row 3 alone
    good[3, 7] = 20.0
    whole = draw(good, hidden, head, device=device, bad_bias=bias)
    {"hidden": hidden[3], "head": head[7], "bias": bias[7:]}[where][0] = math.nan
    out = draw(good, hidden, head, device=device, bad_bias=bias)
    others = [row for row in range(ROWS) if row != 3]
    assert columns(out, others) == columns(whole, others)
    assert columns(out, 3) == [-1, RowStatus.BAD_NOT_FINITE, 0, 0]


@CAPACITIES
def test_head_and_bias_may_have_padding_rows(
    capacity: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "CAPACITY", capacity)
    good, hidden, head, bias = problem(16, rows=ROWS)
    expected = draw(good, hidden, head, device=device, bad_bias=bias)
    good = torch.cat([good, torch.full((ROWS, 12), math.nan)], dim=1)
    head = torch.cat([head, torch.full((30, 16), math.nan)])
    bias = torch.cat([bias, torch.full((30,), math.nan)])
    out = draw(good, hidden, head, device=device, bad_bias=bias, vocab_size=VOCAB)
    assert columns(out) == columns(expected)


def test_only_pending_rows_of_bad_are_computed(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of rows with a list are never written: their scratch memory stays as it was."""
    scratch: list[torch.Tensor] = []
    empty = torch.empty

    def remembering(*shape: Any, **options: Any) -> torch.Tensor:
        x = empty(*shape, **options)
        if shape == (ROWS, VOCAB):
            scratch.append(x)
        return x

    monkeypatch.setattr(gpu, "CAPACITY", 64)
    monkeypatch.setattr(torch, "empty", remembering)
    good, hidden, head, _ = problem(16, rows=ROWS)
    good[3] = 1.0  # flat
    out = draw(good, hidden, head, device=device)
    assert out.plausible[3] == VOCAB and out.plausible.sum() < 2 * VOCAB
    (logits,) = scratch
    written = (~logits.isnan()).cpu()  # what `torch.empty` returns here is all NaN
    assert written[3].all() and not written[[row for row in range(ROWS) if row != 3]].any()


@pytest.mark.gpu
def test_head_rows_beyond_2_to_the_31_elements() -> None:
    vocab, width = 40_000, 64
    distance = 2**31 // vocab + 64
    head = torch.empty(vocab * distance, dtype=torch.bfloat16, device="cuda")
    head = head.as_strided((vocab, width), (distance, 1))
    generator = torch.Generator(device="cuda").manual_seed(0)
    near = torch.randn(vocab, width, device="cuda", generator=generator).bfloat16()
    head.copy_(near)
    good = 3 * torch.randn(16, vocab, device="cuda", generator=generator)
    hidden = torch.randn(16, width, device="cuda", generator=generator).bfloat16()
    for params in (CD, PARAMETERS["dense"]):
        out = draw(good, hidden, head, params, "cuda")
        assert columns(out) == columns(draw(good, hidden, near, params, "cuda"))
