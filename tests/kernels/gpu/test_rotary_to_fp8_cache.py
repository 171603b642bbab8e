"""Rotary embedding in Triton with a cache in fp8: rounded once, saturated, NaN kept."""

from __future__ import annotations

import math

import pytest
import torch
from layer_cases import DTYPES, assert_rounds_alike, normal_on
from rotary_cases import POSITIONS, ROWS, TOLERANCE, copied, problem

from cdgen.kernels import reference
from cdgen.kernels.rotary_to_cache import rotary_to_cache

FP8 = torch.float8_e4m3fn


@pytest.fixture
def fp8_device(device: str) -> str:
    """Return the device; skip the test on a GPU that cannot convert e4m3."""
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 needs compute capability 8.9")
    return device


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [2, 64, 80])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (9, 3)])
@pytest.mark.parametrize("norms", ["", "both"])
def test_rotary_to_an_fp8_cache(
    fp8_device: str, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, norms: str
) -> None:
    arguments = problem(fp8_device, heads, kv_heads, head_dim, dtype, models=2, stored=FP8)
    arguments["qkv"] *= 20  # from subnormals to numbers near the largest
    if norms:
        arguments["query_norm"] = normal_on(fp8_device, dtype, head_dim, seed=5)
        arguments["key_norm"] = normal_on(fp8_device, dtype, head_dim, seed=6)
    twin = copied(arguments)
    query = rotary_to_cache(**arguments, backend="triton")
    expected = rotary_to_cache(**twin, backend="reference")
    assert_rounds_alike(query / 20, expected / 20, TOLERANCE, 3 if norms else 1)
    assert torch.equal(bits(arguments["values"]), bits(twin["values"]))
    # The last bits of fp32, or after norms a step of 16 bits, decide the rounding of keys the other
    # way at most once in 2^5 numbers; neighbours in e4m3 have neighbouring codes.
    codes, theirs = bits(arguments["keys"]).int(), bits(twin["keys"]).int()
    assert int((codes - theirs).abs().max()) <= 1
    written = 2 * ROWS * kv_heads * head_dim
    assert int((codes != theirs).sum()) <= max(1, written // 32 if norms else written // 1000)


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")
def test_fp8_rounds_to_nearest_even_and_saturates(fp8_device: str) -> None:
    """Keys, at angle 0, and values are rounded alike: every number of e4m3, the middle between two
    numbers, and what is just beside the middle."""
    numbers = torch.arange(127).to(torch.uint8).view(FP8).float()
    middle = (numbers[1:] + numbers[:-1]) / 2
    rest = torch.tensor([449.0, 464.0, 465.0, 480.0, 1e9, math.inf, 2.0**-30, 2.0**-140, 3e38])
    x = torch.cat([numbers, middle, middle * (1 + 2.0**-20), middle * (1 - 2.0**-20), rest])
    x = torch.cat([x, -x, torch.full((2,), math.nan)])
    x = torch.nn.functional.pad(x, (0, -len(x) % 4)).view(-1, 4)
    rows = len(x)
    qkv = torch.cat([torch.zeros_like(x), x, x], dim=1).to(fp8_device)
    caches = torch.zeros(2, rows, 1, 1, 4, device=fp8_device).to(FP8)
    cos, sin = torch.ones(1, 2, device=fp8_device), torch.zeros(1, 2, device=fp8_device)
    position = torch.zeros(rows, dtype=torch.int64, device=fp8_device)
    rotary_to_cache(qkv, cos, sin, position, *caches, backend="triton")
    expected = reference.stored(x, FP8).to(fp8_device)
    assert not expected.float()[~x.isnan()].isnan().any()
    assert torch.equal(bits(caches[1]).view(rows, 4), bits(expected))
    # inf * sin 0 turns an infinite key and its pair into NaN.
    finite = (x.isfinite() & x.roll(2, dims=1).isfinite()).to(fp8_device)
    # Compared as numbers: -0 - 0 * sin 0 may be either zero.
    assert torch.equal(caches[0].view(rows, 4)[finite].float(), expected[finite].float())


def test_reference_stores_fp8_by_its_definition() -> None:
    x = torch.tensor([448.0, 463.9, 464.0, 1e9, math.inf, -math.inf, 17.0, 19.0, 0.0009765625, 0.5])
    found = reference.stored(x, FP8).float().tolist()
    assert found == [448, 448, 448, 448, 448, -448, 16, 20, 0, 0.5]
    assert reference.stored(torch.tensor([math.nan]), FP8).float().isnan().all()


def test_nan_in_an_fp8_cache_stays_in_its_row_and_head(fp8_device: str) -> None:
    arguments = problem(fp8_device, 2, 2, 32, stored=FP8)
    arguments["qkv"].view(ROWS, 6, 32)[1, [2, 5], 3] = math.nan  # the first key, the second value
    rotary_to_cache(**arguments, backend="triton")
    for name, head, where in (("keys", 0, [3, 19]), ("values", 1, [3])):
        found = arguments[name].float().isnan().nonzero().tolist()
        assert found == [[1, head, POSITIONS[1], i] for i in where]
