"""The small ops of a decoder layer, against fp64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cdgen.kernels.decoder_ops import rms_norm, rotary_to_cache, swiglu

# (atol, rtol) per op. rms_norm: one fp32 sum of squares, one square root. rotary: two products and
# a difference, which may cancel. swiglu: an exp of 2 ulp, a quotient, two products.
TOLERANCE = {
    "rms_norm": (1e-7, 2e-6),
    "rotary": (1e-6, 1e-6),
    "swiglu": (1e-7, 2e-6),
}

WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 64, 100, 256, 769)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_near(out: torch.Tensor, expected: torch.Tensor, op: str) -> None:
    atol, rtol = TOLERANCE[op]
    assert out.dtype is torch.float32
    torch.testing.assert_close(out.double(), expected, atol=atol, rtol=rtol)


def norm64(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.double()
    return wide / (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


# rms_norm


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_delta", [False, True], ids=["", "delta"])
def test_rms_norm(instruction_set: str, width: int, with_delta: bool) -> None:
    x, weight = normal(5, width), normal(width, seed=1)
    delta = normal(5, width, seed=2) if with_delta else None
    residual = x.clone() if delta is None else x + delta
    out = rms_norm(x, delta, weight, 1e-5)
    assert torch.equal(x, residual)  # one rounding, so exact
    assert_near(out, norm64(residual, weight, 1e-5), "rms_norm")


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_rms_norm_of_small_and_large_rows(instruction_set: str, scale: float) -> None:
    x, weight = scale * normal(3, 40), torch.ones(40)
    assert_near(rms_norm(x, None, weight, 1e-6), norm64(x, weight, 1e-6), "rms_norm")


def test_rms_norm_of_zeros_is_zero(instruction_set: str) -> None:
    out = rms_norm(torch.zeros(2, 20), None, torch.ones(20), 1e-6)
    assert torch.equal(out, torch.zeros(2, 20))


# rotary_to_cache

ROWS, CAPACITY = 4, 11
POSITIONS = torch.tensor([0, 10, 3, 10])


def rotary_problem(
    heads: int, kv_heads: int, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """qkv, cos, sin, and caches full of what must stay where nothing is written."""
    angle = normal(CAPACITY, width // 2, seed=3)
    qkv = normal(ROWS, (heads + 2 * kv_heads) * width)
    caches = normal(2, ROWS, kv_heads, CAPACITY, width, seed=4)
    return qkv, angle.cos(), angle.sin(), caches[0].clone(), caches[1].clone()


def rotate64(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As complex numbers: pair i times e^(i angle)."""
    low, high = x.double().chunk(2, dim=-1)
    turned = torch.complex(low, high) * torch.complex(cos.double(), sin.double())[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


@pytest.mark.parametrize("width", [2, 6, 8, 16, 20, 64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize("norms", ["", "query", "key", "both"])
def test_rotary_to_cache(
    instruction_set: str, heads: int, kv_heads: int, width: int, norms: str
) -> None:
    qkv, cos, sin, keys, values = rotary_problem(heads, kv_heads, width)
    before = keys.clone(), values.clone()
    query_norm = normal(width, seed=5) if norms in ("query", "both") else None
    key_norm = normal(width, seed=6) if norms in ("key", "both") else None
    query = rotary_to_cache(
        qkv, cos, sin, POSITIONS, keys, values,
        query_norm=query_norm, key_norm=key_norm, eps=1e-5,
    )  # fmt: skip

    q, k, v = qkv.view(ROWS, -1, width).split([heads, kv_heads, kv_heads], dim=1)
    q = q if query_norm is None else norm64(q, query_norm, 1e-5)
    k = k if key_norm is None else norm64(k, key_norm, 1e-5)
    c, s = cos[POSITIONS], sin[POSITIONS]
    row = torch.arange(ROWS)
    assert_near(query, rotate64(q, c, s), "rotary")
    assert_near(keys[row, :, POSITIONS], rotate64(k, c, s), "rotary")
    assert torch.equal(values[row, :, POSITIONS], v)
    keys[row, :, POSITIONS], values[row, :, POSITIONS] = (x[row, :, POSITIONS] for x in before)
    assert torch.equal(keys, before[0]) and torch.equal(values, before[1])


def test_position_zero_is_not_turned(instruction_set: str) -> None:
    width, heads = 8, 2
    cos, sin = torch.ones(CAPACITY, 4), torch.zeros(CAPACITY, 4)
    qkv, _, _, keys, values = rotary_problem(heads, heads, width)
    query = rotary_to_cache(qkv, cos, sin, torch.zeros(ROWS, dtype=torch.int64), keys, values)
    assert torch.equal(query.flatten(1), qkv[:, : heads * width])


# swiglu


@pytest.mark.parametrize("width", WIDTHS)
def test_swiglu(instruction_set: str, width: int) -> None:
    gate_up = 3 * normal(5, 2 * width)
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert_near(swiglu(gate_up), gate / (1 + (-gate).exp()) * up, "swiglu")


@pytest.mark.parametrize("position", range(11))  # vector lanes and the tail of a row
def test_swiglu_of_extreme_gates(instruction_set: str, position: int) -> None:
    gates = [-100.0, -88.0, -87.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 87.0, 100.0, 3e38]
    gate = torch.tensor([gates]).roll(position, dims=1)
    out = swiglu(torch.cat([gate, torch.ones_like(gate)], dim=1))
    wide = gate.double()
    assert_near(out, wide * torch.special.expit(wide), "swiglu")


# Two models' rows, stacked


def test_rms_norm_of_stacked_models(instruction_set: str) -> None:
    x, delta, weight = normal(6, 20), normal(6, 20, seed=1), normal(2, 20, seed=2)
    residual = x + delta
    halves = [
        rms_norm(x[rows].clone(), delta[rows], weight[model], 1e-6)
        for model, rows in enumerate((slice(3), slice(3, 6)))
    ]
    assert torch.equal(rms_norm(x, delta, weight, 1e-6), torch.cat(halves))
    assert torch.equal(x, residual)


@pytest.mark.parametrize("norms", [(), ("key_norm",), ("query_norm", "key_norm")])
def test_rotary_of_stacked_models(instruction_set: str, norms: tuple[str, ...]) -> None:
    """Four rows of two sequences: the positions are the sequences'."""
    qkv, cos, sin, keys, values = rotary_problem(4, 2, 8)
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


# All of them


@pytest.mark.parametrize("column", [0, 7, 8, 19])
def test_nan_reaches_the_output_of_its_row_alone(instruction_set: str, column: int) -> None:
    x = normal(3, 20)
    x[1, column] = math.nan
    normed = rms_norm(x.clone(), None, torch.ones(20), 1e-6)
    assert (
        normed.isnan().all(-1).tolist() == normed.isnan().any(-1).tolist() == [False, True, False]
    )
    for half in (0, 20):
        gate_up = normal(3, 40)
        gate_up[1, half + column] = math.nan
        expected = torch.zeros(3, 20, dtype=torch.bool)
        expected[1, column] = True
        assert torch.equal(swiglu(gate_up).isnan(), expected)
    qkv, cos, sin, keys, values = rotary_problem(2, 2, 20)
    qkv[1, 20 + column] = math.nan  # of the second query head
    query = rotary_to_cache(qkv, cos, sin, POSITIONS, keys, values)
    pair = {column % 10, column % 10 + 10}
    assert query.isnan().nonzero().tolist() == [[1, 1, i] for i in sorted(pair)]
    assert not (keys.isnan().any() or values.isnan().any())


def test_order_batch_and_threads_change_no_bit(
    instruction_set: str,
    one_and_two_threads: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    rows, width = 600, 260
    x, delta, gate_up = normal(rows, width), normal(rows, width, seed=1), normal(rows, 2 * width)
    qkv, positions = normal(rows, 8 * width, seed=2), torch.arange(rows) % CAPACITY
    cos, sin = normal(2, CAPACITY, width // 2, seed=3)

    def all_ops(some: list[int]) -> torch.Tensor:
        normed = rms_norm(x[some], delta[some], normal(width), 1e-6)
        keys, values = torch.zeros(2, len(some), 2, CAPACITY, width)
        query = rotary_to_cache(qkv[some], cos, sin, positions[some], keys, values)
        cells = [cache[torch.arange(len(some)), :, positions[some]] for cache in (keys, values)]
        return torch.cat([y.flatten(1) for y in (normed, swiglu(gate_up[some]), query, *cells)], 1)

    one, two = one_and_two_threads(lambda: all_ops(list(range(rows))))
    assert torch.equal(one, two)
    for some in ([599, 0, 3], [4]):
        assert torch.equal(all_ops(some), one[some])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_backends_have_the_same_effects(instruction_set: str, backend: str) -> None:
    """What an op writes in place, the reference writes too."""
    x, delta = normal(2, 6), normal(2, 6, seed=1)
    residual = x + delta
    rms_norm(x, delta, torch.ones(6), 1e-6, backend=backend)
    assert torch.equal(x, residual)
    qkv, cos, sin, keys, values = rotary_problem(4, 2, 6)
    before = keys.clone()
    rotary_to_cache(qkv, cos, sin, POSITIONS, keys, values, backend=backend)
    written = (keys != before).any(-1).any(1)  # [rows, capacity]
    assert written.nonzero().tolist() == [[r, p] for r, p in enumerate(POSITIONS.tolist())]


@pytest.mark.parametrize(
    "call",
    [
        lambda: rms_norm(normal(2, 6), normal(2, 5), torch.ones(6), 1e-6),
        lambda: rms_norm(normal(2, 6), None, torch.ones(5), 1e-6),
        lambda: rms_norm(normal(2, 12)[:, ::2], None, torch.ones(6), 1e-6),
        lambda: rms_norm(normal(2, 6).double(), None, torch.ones(6).double(), 1e-6),
        lambda: swiglu(normal(2, 7)),
        lambda: swiglu(normal(2, 8).half()),
        lambda: rms_norm(normal(2, 6), None, torch.ones(3, 6), 1e-6),
        lambda: rms_norm(normal(2, 6), None, torch.ones(0, 6), 1e-6),
    ],
    ids=["delta", "weight", "strides", "dtype", "odd", "half", "3 models of 2 rows", "no model"],
)
def test_arguments_are_checked(call: Callable[[], torch.Tensor], no_kernel_runs: None) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("positions", POSITIONS.int()),
        ("positions", POSITIONS[:3]),
        ("positions", POSITIONS.repeat_interleave(2)[::2]),
        ("cos", torch.zeros(CAPACITY, 3)),
        ("sin", torch.zeros(CAPACITY - 1, 4)),
        ("keys", torch.zeros(ROWS, 2, CAPACITY + 1, 8)),
        ("values", torch.zeros(ROWS, 2, CAPACITY, 10)),
        ("qkv", torch.zeros(ROWS, 65)),
        ("qkv", torch.zeros(ROWS, 4 * 8)),  # no room for a query
        ("query_norm", torch.ones(7)),
        ("key_norm", torch.ones(9)),
    ],
)
def test_arguments_of_rotary_are_checked(
    argument: str, value: torch.Tensor, no_kernel_runs: None
) -> None:
    qkv, cos, sin, keys, values = rotary_problem(4, 2, 8)
    arguments = {
        "qkv": qkv, "cos": cos, "sin": sin, "positions": POSITIONS, "keys": keys, "values": values,
    }  # fmt: skip
    with pytest.raises(ValueError, match="expected"):
        rotary_to_cache(**(arguments | {argument: value}))
