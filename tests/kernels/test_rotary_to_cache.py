"""Rotary embedding and the write to the cache on the CPU, against fp64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from layer_cases import assert_near, assert_rounds_alike, normal, rms_norm64

from cdgen.kernels import reference
from cdgen.kernels.rotary_to_cache import rotary_to_cache

TOLERANCE = (1e-6, 1e-6)  # two products and a difference, which may cancel

ROWS, CAPACITY = 4, 11
POSITIONS = torch.tensor([0, 10, 3, 10])


def problem(
    heads: int, kv_heads: int, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return qkv, cos, sin, keys and values. The caches are full, so that a stray write shows."""
    angle = normal(CAPACITY, head_dim // 2, seed=3)
    qkv = normal(ROWS, (heads + 2 * kv_heads) * head_dim)
    caches = normal(2, ROWS, kv_heads, CAPACITY, head_dim, seed=4)
    return qkv, angle.cos(), angle.sin(), caches[0].clone(), caches[1].clone()


def rotate64(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Multiply pair i, as a complex number, by e^(i angle)."""
    low, high = x.double().chunk(2, dim=-1)
    rotated = torch.complex(low, high) * torch.complex(cos.double(), sin.double())[:, None]
    return torch.cat([rotated.real, rotated.imag], dim=-1)


@pytest.mark.parametrize("head_dim", [2, 6, 8, 16, 20, 64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize("norms", ["", "query", "key", "both"])
def test_rotary_to_cache(
    instruction_set: str, heads: int, kv_heads: int, head_dim: int, norms: str
) -> None:
    qkv, cos, sin, keys, values = problem(heads, kv_heads, head_dim)
    before = keys.clone(), values.clone()
    gains = {}
    if norms in ("query", "both"):
        gains["query_norm"] = normal(head_dim, seed=5)
    if norms in ("key", "both"):
        gains["key_norm"] = normal(head_dim, seed=6)
    query = rotary_to_cache(qkv, cos, sin, POSITIONS, keys, values, **gains, eps=1e-5)

    q, k, v = qkv.view(ROWS, -1, head_dim).split([heads, kv_heads, kv_heads], dim=1)
    q = rms_norm64(q, gains["query_norm"], 1e-5) if "query_norm" in gains else q
    k = rms_norm64(k, gains["key_norm"], 1e-5) if "key_norm" in gains else k
    c, s = cos[POSITIONS], sin[POSITIONS]
    row = torch.arange(ROWS)
    assert_near(query, rotate64(q, c, s), TOLERANCE)
    assert_near(keys[row, :, POSITIONS], rotate64(k, c, s), TOLERANCE)
    assert torch.equal(values[row, :, POSITIONS], v)
    keys[row, :, POSITIONS], values[row, :, POSITIONS] = (x[row, :, POSITIONS] for x in before)
    assert torch.equal(keys, before[0]) and torch.equal(values, before[1])


def test_angle_zero_rotates_nothing(instruction_set: str) -> None:
    head_dim, heads = 8, 2
    cos, sin = torch.ones(CAPACITY, 4), torch.zeros(CAPACITY, 4)
    qkv, _, _, keys, values = problem(heads, heads, head_dim)
    query = rotary_to_cache(qkv, cos, sin, torch.zeros(ROWS, dtype=torch.int64), keys, values)
    assert torch.equal(query.flatten(1), qkv[:, : heads * head_dim])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("capacity", [1, 3, 10])
def test_a_shorter_cache_is_a_ring(instruction_set: str, backend: str, capacity: int) -> None:
    """Angles are those of the position; the entry is what is left of it after whole turns."""
    qkv, cos, sin, keys, values = problem(4, 2, 8)
    query = rotary_to_cache(qkv, cos, sin, POSITIONS, keys, values)
    rings = [torch.full((ROWS, 2, capacity, 8), 9.0) for _ in range(2)]
    turned = rotary_to_cache(qkv, cos, sin, POSITIONS, *rings, backend=backend)
    torch.testing.assert_close(turned, query, atol=TOLERANCE[0], rtol=TOLERANCE[1])
    row, entry = torch.arange(ROWS), POSITIONS % capacity
    for ring, whole in zip(rings, (keys, values), strict=True):
        expected = torch.full_like(ring, 9.0)
        expected[row, :, entry] = whole[row, :, POSITIONS]
        torch.testing.assert_close(ring, expected, atol=TOLERANCE[0], rtol=TOLERANCE[1])


@pytest.mark.parametrize("norms", [(), ("key_norm",), ("query_norm", "key_norm")])
def test_stacked_models_equal_each_alone(instruction_set: str, norms: tuple[str, ...]) -> None:
    """Four rows hold two sequences of two models, so two positions serve all four."""
    qkv, cos, sin, keys, values = problem(4, 2, 8)
    gains = {name: normal(2, 8, seed=len(name)) for name in norms}
    alone = []
    for model, rows in enumerate((slice(2), slice(2, 4))):
        caches = keys[rows].clone(), values[rows].clone()
        gain = {name: both[model] for name, both in gains.items()}
        query = rotary_to_cache(qkv[rows], cos, sin, POSITIONS[:2], *caches, **gain)
        alone.append((query, *caches))
    query = rotary_to_cache(qkv, cos, sin, POSITIONS[:2], keys, values, **gains)
    for stacked, parts in zip((query, keys, values), zip(*alone, strict=True), strict=True):
        assert torch.equal(stacked, torch.cat(parts))


@pytest.mark.parametrize("column", [0, 7, 8, 19])
def test_nan_reaches_its_pair_alone(instruction_set: str, column: int) -> None:
    qkv, cos, sin, keys, values = problem(2, 2, 20)
    qkv[1, 20 + column] = math.nan  # in the second query head
    query = rotary_to_cache(qkv, cos, sin, POSITIONS, keys, values)
    pair = {column % 10, column % 10 + 10}
    assert query.isnan().nonzero().tolist() == [[1, 1, i] for i in sorted(pair)]
    assert not (keys.isnan().any() or values.isnan().any())


def test_order_batch_and_threads_change_no_bit(
    instruction_set: str,
    one_and_two_threads: Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    rows, head_dim = 600, 260
    qkv, positions = normal(rows, 8 * head_dim, seed=2), torch.arange(rows) % CAPACITY
    cos, sin = normal(2, CAPACITY, head_dim // 2, seed=3)

    def some_rows(some: list[int]) -> torch.Tensor:
        keys, values = torch.zeros(2, len(some), 2, CAPACITY, head_dim)
        query = rotary_to_cache(qkv[some], cos, sin, positions[some], keys, values)
        cells = [cache[torch.arange(len(some)), :, positions[some]] for cache in (keys, values)]
        return torch.cat([y.flatten(1) for y in (query, *cells)], 1)

    one, two = one_and_two_threads(lambda: some_rows(list(range(rows))))
    assert torch.equal(one, two)
    for some in ([599, 0, 3], [4]):
        assert torch.equal(some_rows(some), one[some])


Stored = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # keys, values, scales


def empty_cache(dtype: torch.dtype, kv_heads: int, head_dim: int) -> Stored:
    keys, values = torch.zeros(2, ROWS, kv_heads, CAPACITY, head_dim, dtype=dtype)
    scales = torch.zeros(2, ROWS, kv_heads, CAPACITY) if dtype is torch.int8 else None
    return keys, values, scales


@pytest.mark.parametrize("head_dim", [2, 6, 8, 20, 64])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_every_format_holds_the_rounded_fp32_numbers(
    instruction_set: str, stored: torch.dtype, compute: torch.dtype, head_dim: int
) -> None:
    """The same numbers in fp32 throughout, and then rounded, give the same bits."""
    qkv, cos, sin, keys, values = problem(4, 2, head_dim)
    qkv = qkv.to(compute)
    exact = rotary_to_cache(qkv.float(), cos, sin, POSITIONS, keys, values)
    cache = empty_cache(stored, 2, head_dim)
    query = rotary_to_cache(qkv, cos, sin, POSITIONS, *cache[:2], scales=cache[2])
    assert torch.equal(query, exact.to(compute))
    row = torch.arange(ROWS)
    for i, (found, wide) in enumerate(zip(cache[:2], (keys, values), strict=True)):
        expected = wide[row, :, POSITIONS]
        if cache[2] is None:
            assert torch.equal(found[row, :, POSITIONS], expected.to(stored))
        else:
            numbers, scale = reference.quantized(expected)
            assert torch.equal(found[row, :, POSITIONS], numbers)
            assert torch.equal(cache[2][i, row, :, POSITIONS], scale)
            assert int((cache[2][i] != 0).sum()) == ROWS * 2


@pytest.mark.parametrize("head_dim", [6, 16, 64])
def test_bf16_heads_with_norms_round_as_the_reference(instruction_set: str, head_dim: int) -> None:
    qkv, cos, sin, *_ = problem(4, 2, head_dim)
    norms = {n: normal(head_dim, seed=5).bfloat16() for n in ("query_norm", "key_norm")}
    found = []
    for backend in ("cpu", "reference"):
        keys, values, _ = empty_cache(torch.bfloat16, 2, head_dim)
        query = rotary_to_cache(
            qkv.bfloat16(), cos, sin, POSITIONS, keys, values, **norms, backend=backend
        )
        found.append((query, keys, values))
    for out, expected in zip(*found, strict=True):
        assert_rounds_alike(out, expected, TOLERANCE, roundings=3)


@pytest.mark.parametrize("column", [0, 7, 8, 19])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_makes_an_int8_head_nan(
    instruction_set: str, number: float, column: int
) -> None:
    qkv, cos, sin, *_ = problem(2, 2, 20)
    qkv[1, 5 * 20 + column] = number  # in the second value head
    keys, values, scales = empty_cache(torch.int8, 2, 20)
    assert scales is not None
    rotary_to_cache(qkv, cos, sin, POSITIONS, keys, values, scales=scales)
    assert scales.isnan().nonzero().tolist() == [[1, 1, 1, int(POSITIONS[1])]]


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 3e38])
def test_extreme_int8_heads(instruction_set: str, largest: float) -> None:
    """Zeros, a scale that underflows to 0, one that is subnormal, one near the end of fp32."""
    qkv, cos, sin = torch.zeros(ROWS, 3 * 8), torch.ones(CAPACITY, 4), torch.zeros(CAPACITY, 4)
    qkv[:, 16:18] = torch.tensor([largest, -largest])  # of the values
    (keys, values, scales), position = empty_cache(torch.int8, 1, 8), POSITIONS * 0
    rotary_to_cache(qkv, cos, sin, position, keys, values, scales=scales)
    numbers, scale = reference.quantized(qkv[:, 16:])
    assert scales is not None
    assert torch.equal(values[:, 0, 0], numbers) and torch.equal(scales[1, :, 0, 0], scale)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_backend_writes_one_entry_per_row(instruction_set: str, backend: str) -> None:
    qkv, cos, sin, keys, values = problem(4, 2, 6)
    before = keys.clone()
    rotary_to_cache(qkv, cos, sin, POSITIONS, keys, values, backend=backend)
    written = (keys != before).any(-1).any(1)  # [rows, capacity]
    assert written.nonzero().tolist() == [[r, p] for r, p in enumerate(POSITIONS.tolist())]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("positions", POSITIONS.int()),
        ("positions", POSITIONS[:3]),
        ("positions", POSITIONS.repeat_interleave(2)[::2]),
        ("cos", torch.zeros(CAPACITY, 3)),
        ("sin", torch.zeros(CAPACITY - 1, 4)),
        ("cos", torch.zeros(CAPACITY - 1, 4)),  # no angle for the last entry
        ("keys", torch.zeros(ROWS, 2, CAPACITY + 1, 8)),
        ("values", torch.zeros(ROWS, 2, CAPACITY, 10)),
        ("qkv", torch.zeros(ROWS, 65)),
        ("qkv", torch.zeros(ROWS, 4 * 8)),  # no room for a query
        ("query_norm", torch.ones(7)),
        ("key_norm", torch.ones(9)),
        ("keys", torch.zeros(ROWS, 2, CAPACITY, 8).to(torch.float8_e4m3fn)),
        ("values", torch.zeros(ROWS, 2, CAPACITY, 8).bfloat16()),
        ("scales", torch.zeros(2, ROWS, 2, CAPACITY)),  # of caches that are not int8
        ("qkv", torch.zeros(ROWS, 8 * 8).half()),
    ],
)
def test_arguments_are_checked(argument: str, value: torch.Tensor, no_kernel_runs: None) -> None:
    names = ("qkv", "cos", "sin", "keys", "values")
    arguments = dict(zip(names, problem(4, 2, 8), strict=True), positions=POSITIONS)
    with pytest.raises(ValueError, match="expected"):
        rotary_to_cache(**(arguments | {argument: value}))
