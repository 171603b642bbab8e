"""Attention of one query per row over the row's part of the cache, on the CPU, against fp64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from cdgen.kernels import reference
from cdgen.kernels.decode_attention import AttentionDropout, decode_attention

# For outputs of order 1: fp32 sums of up to 128 products and 70 weights, and an exp of 2 ulp.
ATOL, RTOL = 2e-6, 2e-5

CAPACITY = 70
INT8_CACHE = torch.zeros(3, 2, 9, 8, dtype=torch.int8)


def problem(
    rows: int, heads: int, kv_heads: int, head_dim: int, capacity: int = CAPACITY
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, keys, values and random lengths, the first 1, the last the capacity."""
    generator = torch.Generator().manual_seed(head_dim)
    query = torch.randn(rows, heads, head_dim, generator=generator)
    keys, values = torch.randn(2, rows, kv_heads, capacity, head_dim, generator=generator)
    lengths = torch.randint(1, capacity + 1, (rows,), generator=generator)
    lengths[0], lengths[-1] = 1, capacity
    return query, keys, values, lengths


def attend64(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
) -> torch.Tensor:  # [B, H, Dh] float64
    group = query.shape[1] // keys.shape[1]
    out = torch.zeros(query.shape, dtype=torch.float64)
    for row, length in enumerate(lengths.tolist()):
        for head in range(query.shape[1]):
            k, v = (x[row, head // group, :length].double() for x in (keys, values))
            out[row, head] = (scale * k @ query[row, head].double()).softmax(0) @ v
    return out


@pytest.mark.parametrize("head_dim", [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 20, 32, 64, 80, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (4, 2), (4, 1), (8, 1)])
def test_against_fp64(instruction_set: str, heads: int, kv_heads: int, head_dim: int) -> None:
    query, keys, values, lengths = problem(5, heads, kv_heads, head_dim)
    out = decode_attention(query, keys, values, lengths, scale=head_dim**-0.5)
    expected = attend64(query, keys, values, lengths, head_dim**-0.5)
    torch.testing.assert_close(out.double(), expected, atol=ATOL, rtol=RTOL)


@pytest.mark.parametrize("capacity", [1, 3, 4, 7, 8, 9, 31])
def test_every_length(instruction_set: str, capacity: int) -> None:
    query, keys, values, _ = problem(capacity, 4, 2, 12, capacity)
    lengths = torch.arange(1, capacity + 1)
    out = decode_attention(query, keys, values, lengths, scale=0.3)
    expected = attend64(query, keys, values, lengths, 0.3)
    torch.testing.assert_close(out.double(), expected, atol=ATOL, rtol=RTOL)


def test_weights_far_below_the_largest(instruction_set: str) -> None:
    query, keys, values, lengths = problem(6, 2, 2, 16)
    out = decode_attention(query, 30 * keys, values, lengths, scale=1.0)
    expected = attend64(query, 30 * keys, values, lengths, 1.0)
    # Scores of a few hundred carry fp32 errors of about 5e-5 into the weights.
    torch.testing.assert_close(out.double(), expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize("score", [1e4, -1e4])
def test_a_large_score_that_all_keys_share_cancels(instruction_set: str, score: float) -> None:
    query, keys = torch.full((2, 1, 16), score / 16), torch.ones(2, 1, CAPACITY, 16)
    _, _, values, lengths = problem(2, 1, 1, 16)
    out = decode_attention(query, keys, values, lengths, scale=1.0)
    for row, length in enumerate(lengths.tolist()):
        mean = values[row, 0, :length].double().mean(0)
        torch.testing.assert_close(out[row, 0].double(), mean, atol=ATOL, rtol=RTOL)


def test_entries_past_the_length_are_never_read(instruction_set: str) -> None:
    query, keys, values, lengths = problem(6, 4, 2, 20)
    clean = decode_attention(query, keys, values, lengths, scale=0.2)
    for row, length in enumerate(lengths.tolist()):
        keys[row, :, length:] = math.nan
        values[row, :, length:] = math.nan
    assert torch.equal(decode_attention(query, keys, values, lengths, scale=0.2), clean)


@pytest.mark.parametrize("where", ["query", "keys", "values"])
@pytest.mark.parametrize("head_dim", [8, 20])
def test_nan_reaches_the_output_of_its_head_alone(
    instruction_set: str, head_dim: int, where: str
) -> None:
    query, keys, values, lengths = problem(4, 4, 2, head_dim)
    clean = decode_attention(query, keys, values, lengths, scale=0.2)
    row, kv_head, column = 2, 1, head_dim - 1
    entry = int(lengths[row]) - 1
    if where == "query":
        query[row, 3, column] = math.nan
        reached = torch.zeros_like(clean, dtype=torch.bool)
        reached[row, 3] = True
    else:
        {"keys": keys, "values": values}[where][row, kv_head, entry, column] = math.nan
        reached = torch.zeros_like(clean, dtype=torch.bool)
        reached[row, 2:, slice(None) if where == "keys" else column] = True
    out = decode_attention(query, keys, values, lengths, scale=0.2)
    assert out.isnan().tolist() == reached.tolist()
    assert torch.equal(out[~reached], clean[~reached])


def test_order_batch_neighbours_and_threads_change_no_bit(
    instruction_set: str,
    one_and_two_threads: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    capacity = 400
    query, keys, values, lengths = problem(9, 4, 2, 20, capacity)
    one, two = one_and_two_threads(
        lambda: decode_attention(query, keys, values, lengths, scale=0.2)
    )
    assert torch.equal(one, two)
    for rows in ([8, 3, 0, 5], [3], [3, 3]):
        some = [x[rows].contiguous() for x in (query, keys, values, lengths)]
        assert torch.equal(decode_attention(*some, scale=0.2), one[rows])
    # Change the neighbours' lengths, then the capacity of the cache.
    others = torch.randint(1, capacity + 1, (9,), generator=torch.Generator().manual_seed(1))
    others[3] = lengths[3]
    assert torch.equal(decode_attention(query, keys, values, others, scale=0.2)[3], one[3])
    length = int(lengths[3])
    short = [x[3:4, :, :length].contiguous() for x in (keys, values)]
    cut = decode_attention(query[3:4], *short, lengths[3:4], scale=0.2)
    assert torch.equal(cut[0], one[3])


def kept_weights(dropout: AttentionDropout, lengths: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the weights [B, H, T] of uniform attention after dropout, read off one-hot values."""
    rows, capacity = len(lengths), 64
    values = torch.eye(capacity).expand(rows, heads, -1, -1).contiguous()
    query, keys = torch.zeros(rows, heads, capacity), torch.zeros_like(values)
    return decode_attention(query, keys, values, lengths, scale=1.0, dropout=dropout)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_dropout_keeps_what_the_reference_keeps(instruction_set: str, rate: float) -> None:
    ids = torch.tensor([0, 1, 2**31, 2**48 - 1])
    lengths, heads = torch.tensor([64, 63, 5, 1]), 3
    for seed, layer in ((0, 0), (2**64 - 1, 1), (5, 20000)):
        out = kept_weights(AttentionDropout(rate, seed, layer, ids), lengths, heads)
        keep = reference.dropout_keep(seed, rate, layer, ids, lengths, heads, 64)
        for row, length in enumerate(lengths.tolist()):
            expected = keep[row, :, :length] / (length * (1 - rate))
            torch.testing.assert_close(out[row, :, :length], expected, atol=0, rtol=1e-5)
            assert (out[row, :, length:] == 0).all()


def test_dropout_bound_is_exact_for_a_word_on_it(instruction_set: str) -> None:
    """A weight is kept if word >= rate * 2**32, even for rates that fp32 cannot hold."""
    ids, lengths = torch.tensor([7]), torch.tensor([64])
    stream = 0xFFFFFFFF << 32  # the stream of dropout under seed 0
    words = reference.random_words(stream, ids, lengths - 1, 64)[0].tolist()
    for key, word in enumerate(words):
        for rate, kept in ((word / 2**32, True), ((word + 1) / 2**32, False)):
            out = kept_weights(AttentionDropout(rate, 0, 0, ids), lengths, heads=1)
            assert bool(out[0, 0, key] > 0) == kept, f"word {word}, rate {rate}"


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_preserves_the_expectation(instruction_set: str, rate: float) -> None:
    rows = 2000
    lengths = torch.full((rows,), 64)
    out = kept_weights(AttentionDropout(rate, 3, 1, torch.arange(rows)), lengths, heads=2)
    weights = rows * 2 * 64
    spread = math.sqrt(rate * (1 - rate) * weights)
    assert abs(int((out > 0).sum()) - (1 - rate) * weights) < 5 * spread
    assert abs(float(out.sum()) / (rows * 2) - 1) < 5 * spread / weights / (1 - rate)


def test_dropout_against_the_reference(instruction_set: str) -> None:
    query, keys, values, lengths = problem(6, 4, 2, 20)
    dropout = AttentionDropout(0.5, 11, 2, torch.arange(6))
    out, expected = (
        decode_attention(query, keys, values, lengths, scale=0.2, dropout=dropout, backend=backend)
        for backend in ("cpu", "reference")
    )
    torch.testing.assert_close(out, expected, atol=2 * ATOL, rtol=2 * RTOL)


# Two models' rows, stacked


@pytest.mark.parametrize("dropped", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_stacked_models_equal_each_alone(instruction_set: str, backend: str, dropped: bool) -> None:
    query, keys, values, lengths = problem(6, 4, 2, 20)
    lengths = lengths[:3]
    good, bad = ([x[rows] for x in (query, keys, values)] for rows in (slice(3), slice(3, 6)))
    dropout = AttentionDropout(0.5, 11, 2, torch.tensor([3, 4, 2**47])) if dropped else None
    alone = [
        decode_attention(*good, lengths, scale=0.2, backend=backend),
        decode_attention(*bad, lengths, scale=0.2, backend=backend, dropout=dropout),
    ]
    if dropout:
        dropout = replace(dropout, first_row=3)
    stacked = decode_attention(
        query, keys, values, lengths, scale=0.2, backend=backend, dropout=dropout
    )
    # Native sums have one order per row; eager ones may be split differently for another shape.
    atol, rtol = (0.0, 0.0) if backend == "cpu" else (ATOL, RTOL)
    torch.testing.assert_close(stacked, torch.cat(alone), atol=atol, rtol=rtol)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("first_row", [0, 1, 4, 6])
def test_rows_before_the_first_keep_every_weight(
    instruction_set: str, backend: str, first_row: int
) -> None:
    tensors = problem(6, 2, 2, 20)
    plain = AttentionDropout(0.5, 1, 0, torch.arange(6))
    kept, dropped, mixed = (
        decode_attention(*tensors, scale=0.2, backend=backend, dropout=dropout)
        for dropout in (None, plain, replace(plain, first_row=first_row))
    )
    expected = torch.cat([kept[:first_row], dropped[first_row:]])
    torch.testing.assert_close(mixed, expected, atol=ATOL, rtol=RTOL)
    assert not torch.isclose(kept, dropped, atol=10 * ATOL).flatten(1).all(1).any()


def test_the_reference_reads_an_fp8_cache_as_its_numbers() -> None:
    query, keys, values, lengths = problem(5, 4, 2, 20)
    keys, values = (x.to(torch.float8_e4m3fn) for x in (keys, values))
    out = decode_attention(query, keys, values, lengths, scale=0.2, backend="reference")
    expected = attend64(query, keys, values, lengths, 0.2)
    torch.testing.assert_close(out.double(), expected, atol=ATOL, rtol=RTOL)


STORED = pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8], ids=str)


def cached(x: torch.Tensor, stored: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `x` in a cache's format, the scales of its heads, and the numbers that it stands for.
    The scales are powers of 2, by which fp32 multiplies exactly."""
    if stored is not torch.int8:
        return x.to(stored), torch.ones(x.shape[:-1]), x.to(stored).float()
    scales = 2.0 ** (torch.arange(x[..., 0].numel()).view(x.shape[:-1]) % 5 - 7)
    numbers = (x / scales[..., None]).round().clamp(-127, 127)
    return numbers.to(stored), scales, numbers * scales[..., None]


@STORED
@pytest.mark.parametrize("dropped", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("head_dim", [1, 7, 8, 9, 20, 64, 128])
def test_every_format_is_read_as_its_numbers(
    instruction_set: str, head_dim: int, dropped: bool, stored: torch.dtype
) -> None:
    """A cache of fp32 that holds the same numbers gives the same bits."""
    query, keys, values, lengths = problem(5, 4, 2, head_dim)
    (keys, key_scales, wide_keys), (values, value_scales, wide_values) = (
        cached(x, stored) for x in (keys, values)
    )
    scales = torch.stack([key_scales, value_scales]) if stored is torch.int8 else None
    dropout = AttentionDropout(0.5, 11, 2, torch.arange(5)) if dropped else None
    arguments: dict[str, Any] = {"lengths": lengths, "scale": 0.2, "dropout": dropout}
    out = decode_attention(query, keys, values, scales=scales, **arguments)
    assert torch.equal(out, decode_attention(query, wide_keys, wide_values, **arguments))
    expected = decode_attention(
        query, keys, values, scales=scales, backend="reference", **arguments
    )
    torch.testing.assert_close(out, expected, atol=2 * ATOL, rtol=2 * RTOL)


@STORED
def test_a_bf16_query_is_its_number_and_the_output_is_rounded(
    instruction_set: str, stored: torch.dtype
) -> None:
    query, keys, values, lengths = problem(6, 4, 2, 20)
    query = query.bfloat16()
    (keys, key_scales, _), (values, value_scales, _) = (cached(x, stored) for x in (keys, values))
    scales = torch.stack([key_scales, value_scales]) if stored is torch.int8 else None
    out, exact = (
        decode_attention(q, keys, values, lengths, scale=0.2, scales=scales)
        for q in (query, query.float())
    )
    assert torch.equal(out, exact.bfloat16())


@pytest.mark.parametrize("which", [0, 1], ids=["key", "value"])
def test_an_int8_head_with_a_nan_scale_is_nan(instruction_set: str, which: int) -> None:
    query, keys, values, lengths = problem(4, 4, 2, 20)
    (keys, key_scales, _), (values, value_scales, _) = (
        cached(x, torch.int8) for x in (keys, values)
    )
    scales = torch.stack([key_scales, value_scales])
    scales[which, 2, 1, int(lengths[2]) - 1] = math.nan
    for row, length in enumerate(lengths.tolist()):
        scales[:, row, :, length:] = math.nan  # past the length nothing is read
    out = decode_attention(query, keys, values, lengths, scale=0.2, scales=scales)
    nan = out.isnan()
    assert nan[2, 2:].all() and int(nan.sum()) == 2 * 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"keys": torch.zeros(3, 2, 9, 9)},
            r"keys: expected .*\[3, 2, 9, 8\].* got \[3, 2, 9, 9\]",
        ),
        (
            {"keys": torch.zeros(2, 2, 9, 8)},
            r"keys: expected .*\[3, 2, 9, 8\].* got \[2, 2, 9, 8\]",
        ),
        ({"values": torch.zeros(3, 2, 8, 8)}, r"values: expected .*\[3, 2, 9, 8\].* got"),
        ({"query": torch.zeros(3, 5, 8)}, "query: expected heads in groups of 2, got 5"),
        ({"query": torch.zeros(3, 4, 16)[..., ::2]}, "query: expected contiguous"),
        (
            {"query": torch.zeros(3, 4, 8).half()},
            "query: expected .*float32 or .*bfloat16, got .*float16",
        ),
        (
            {"keys": torch.zeros(3, 2, 9, 8).to(torch.float8_e4m3fn)},
            "keys: expected .*float32 or .*int8, got .*float8_e4m3fn",
        ),
        (
            {"keys": torch.zeros(3, 2, 9, 8).bfloat16()},
            "values: expected .*bfloat16, got .*float32",
        ),
        ({"scales": torch.ones(2, 3, 2, 9)}, "scales: expected those of an int8 cache"),
        (
            {"keys": INT8_CACHE, "values": INT8_CACHE},
            "scales: expected those of an int8 cache .* got None",
        ),
        (
            {"keys": INT8_CACHE, "values": INT8_CACHE, "scales": torch.ones(2, 3, 2, 8)},
            r"scales: expected .*\[2, 3, 2, 9\]",
        ),
        ({"lengths": torch.ones(2, dtype=torch.int64)}, r"lengths: expected .*\[3\].* got \[2\]"),
        ({"lengths": torch.ones(3, dtype=torch.int32)}, "lengths: expected .*int64.* got .*int32"),
        ({"lengths": torch.ones(6, dtype=torch.int64)[::2]}, "lengths: expected contiguous"),
        ({"dropout": AttentionDropout(0.5, 0, 0, torch.arange(2))}, "sequence_ids: expected"),
        ({"dropout": AttentionDropout(0.5, 0, 0, torch.arange(3), 4)}, "first_row: expected 0 to"),
        ({"dropout": AttentionDropout(0.5, 0, 0, torch.arange(3), -1)}, "first_row: expected 0 to"),
    ],
)
def test_arguments_are_checked(changes: dict[str, Any], message: str, no_kernel_runs: None) -> None:
    cache = torch.zeros(3, 2, 9, 8)
    lengths = torch.ones(3, dtype=torch.int64)
    arguments = {"query": torch.zeros(3, 4, 8), "keys": cache, "values": cache, "lengths": lengths}
    with pytest.raises(ValueError, match=message):
        decode_attention(**(arguments | changes), scale=1.0)
