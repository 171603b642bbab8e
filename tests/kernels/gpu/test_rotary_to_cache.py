"""Rotary embedding and the write to the cache in Triton: rounded as the reference rounds."""

from __future__ import annotations

import pytest
import torch
from layer_cases import DTYPES, assert_rounds_alike, normal_on
from rotary_cases import CAPACITY, ROWS, TOLERANCE, copied, problem

from cdgen.kernels.rotary_to_cache import rotary_to_cache

FP8 = torch.float8_e4m3fn


def assert_same_effects(out: tuple[torch.Tensor, ...], twin: tuple[torch.Tensor, ...]) -> None:
    for one, other in zip(out, twin, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [2, 32, 64, 80, 96, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (9, 3), (16, 2)])
@pytest.mark.parametrize("norms", ["", "query", "both"])
def test_rotary_to_cache(
    device: str, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, norms: str
) -> None:
    arguments = problem(device, heads, kv_heads, head_dim, dtype)
    if norms:
        arguments["query_norm"] = normal_on(device, dtype, head_dim, seed=5)
    if norms == "both":
        arguments["key_norm"] = normal_on(device, dtype, head_dim, seed=6)
    twin = copied(arguments)
    query = rotary_to_cache(**arguments, backend="triton")
    expected = rotary_to_cache(**twin, backend="reference")
    roundings = 3 if norms else 1
    assert_rounds_alike(query, expected, TOLERANCE, roundings)
    row = torch.arange(ROWS, device=device)
    position = arguments["positions"]
    written = arguments["keys"][row, :, position]
    assert_rounds_alike(written, twin["keys"][row, :, position], TOLERANCE, roundings)
    arguments["keys"][row, :, position] = twin["keys"][row, :, position]
    assert torch.equal(arguments["keys"], twin["keys"])  # nothing else was written
    assert torch.equal(arguments["values"], twin["values"])


@pytest.mark.parametrize("capacity", [1, 4, 10])
def test_a_shorter_cache_is_a_ring(device: str, capacity: int) -> None:
    arguments = problem(device, 4, 2, 32, torch.bfloat16, models=2, capacity=capacity)
    twin = copied(arguments)
    query = rotary_to_cache(**arguments, backend="triton")
    expected = rotary_to_cache(**twin, backend="reference")
    assert_rounds_alike(query, expected, TOLERANCE)
    assert_rounds_alike(arguments["keys"], twin["keys"], TOLERANCE)
    assert torch.equal(arguments["values"], twin["values"])


def test_against_the_native_kernel(device: str) -> None:
    pytest.importorskip("cdgen.kernels._cpu")
    arguments = problem(device, 4, 2, 80)
    arguments["key_norm"] = normal_on(device, torch.float32, 80, seed=6)
    twin = {name: tensor.cpu().clone() for name, tensor in arguments.items()}
    query = rotary_to_cache(**arguments, backend="triton")
    assert_rounds_alike(query.cpu(), rotary_to_cache(**twin, backend="cpu"), TOLERANCE)
    assert_rounds_alike(arguments["keys"].cpu(), twin["keys"], TOLERANCE)


@pytest.mark.parametrize("norms", ["", "key_norm", "both"])
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_rotary_of_stacked_models(device: str, backend: str, norms: str) -> None:
    stacked = problem(device, 4, 2, 32, models=2)
    names = {"": (), "both": ("query_norm", "key_norm")}.get(norms, (norms,))
    gains = {name: normal_on(device, torch.float32, 2, 32, seed=len(name)) for name in names}
    queries, keys, values = [], [], []
    for model, rows in enumerate((slice(ROWS), slice(ROWS, 2 * ROWS))):
        alone = copied(stacked)
        alone |= {name: alone[name][rows] for name in ("qkv", "keys", "values")}
        alone |= {name: gain[model] for name, gain in gains.items()}
        queries.append(rotary_to_cache(**alone, backend=backend))
        keys.append(alone["keys"])
        values.append(alone["values"])
    query = rotary_to_cache(**stacked, **gains, backend=backend)
    assert torch.equal(query, torch.cat(queries))
    assert torch.equal(stacked["keys"], torch.cat(keys))
    assert torch.equal(stacked["values"], torch.cat(values))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_order_and_batch_change_no_bit(device: str, dtype: torch.dtype) -> None:
    whole = problem(device, 4, 2, 32, dtype)

    def some_rows(some: list[int]) -> torch.Tensor:
        names = ("qkv", "positions", "keys", "values")
        arguments = whole | {name: whole[name][some] for name in names}
        query = rotary_to_cache(**arguments, backend="triton")
        return torch.cat([query.flatten(1), arguments["keys"].flatten(1)], dim=1)

    everything = some_rows([0, 1, 2])
    for some in ([2, 0, 1], [1], [1, 1]):
        assert torch.equal(some_rows(some), everything[some])


def test_the_registered_op_is_what_it_declares(device: str) -> None:
    from cdgen.kernels.gpu import rotary_to_cache as gpu

    arguments = problem(device, 4, 2, 32, torch.bfloat16).values()
    gain = normal_on(device, torch.bfloat16, 1, 32)
    torch.library.opcheck(gpu.rotary_to_cache, (*arguments, gain, None, 1e-6))


def test_bytes_follow_their_formula(device: str) -> None:
    from cdgen.kernels.gpu.rotary_to_cache import rotary_to_cache_bytes

    arguments = problem(device, 4, 2, 32, torch.bfloat16, models=2)
    inputs = [arguments[name] for name in ("qkv", "cos", "positions")]
    moved = rotary_to_cache_bytes(*inputs, arguments["keys"])
    assert moved == 2 * (2 * 6 * 8 * 32) + 8 * 3 + 4 * (2 * 3 * 16)
    moved_fp8 = rotary_to_cache_bytes(*inputs, arguments["keys"].to(FP8))
    assert moved - moved_fp8 == 6 * 2 * 2 * 32  # R rows, keys and values, Hkv heads of Dh numbers


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (
            "positions",
            torch.zeros(2, dtype=torch.int64),
            r"positions: expected .*\[3\].* got \[2\]",
        ),
        (
            "keys",
            torch.zeros(3, 2, CAPACITY, 8).half(),
            "keys: expected .*float32 or .*float8_e4m3fn, got .*float16",
        ),
        (
            "keys",
            torch.zeros(3, 2, CAPACITY, 8).to(FP8),
            "values: expected .*e4m3fn, got .*float32",
        ),
        (
            "values",
            torch.zeros(3, 2, CAPACITY, 8).to(FP8),
            "values: expected .*float32, got .*e4m3",
        ),
        ("cos", torch.zeros(CAPACITY, 4).half(), "cos: expected .*float32, got .*float16"),
        ("key_norm", torch.ones(3, 8), r"key_norm: expected contiguous \[8\].* got \[3, 8\]"),
    ],
)
def test_arguments_are_checked(
    device: str, argument: str, value: torch.Tensor, message: str
) -> None:
    arguments = problem(device, 4, 2, 8) | {"query_norm": torch.ones(8, device=device)}
    with pytest.raises(ValueError, match=message):
        rotary_to_cache(**(arguments | {argument: value.to(device)}), backend="triton")


# Tests that need a GPU


@pytest.mark.gpu
def test_a_cache_beyond_two_to_the_31_elements(device: str) -> None:
    rows, kv_heads, capacity, head_dim = 33, 8, 65536, 128
    keys, values = (
        torch.empty(rows, kv_heads, capacity, head_dim, dtype=torch.bfloat16, device=device)
        for _ in range(2)
    )
    assert keys.numel() > 2**31
    qkv = normal_on(device, torch.bfloat16, rows, 3 * kv_heads * head_dim)
    cos, sin = torch.ones(capacity, head_dim // 2), torch.zeros(capacity, head_dim // 2)
    positions = torch.full((rows,), capacity - 1, device=device)
    query = rotary_to_cache(qkv, cos.to(device), sin.to(device), positions, keys, values)
    parts = qkv.view(rows, 3, kv_heads, head_dim).unbind(1)
    assert_same_effects((query, keys[:, :, -1], values[:, :, -1]), parts)
    assert int((~keys.isnan()).sum()) == int((~values.isnan()).sum()) == parts[1].numel()


@pytest.mark.gpu
def test_a_replayed_graph_sees_new_positions(device: str) -> None:
    arguments = problem(device, 4, 2, 64, torch.bfloat16)
    rotary_to_cache(**copied(arguments))  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        query = rotary_to_cache(**arguments)
    for new in ([5, 6, 7], [10, 0, 1]):
        arguments["positions"].copy_(torch.tensor(new))
        twin = copied(arguments)
        graph.replay()
        expected = rotary_to_cache(**twin)
        assert_same_effects(
            (query, arguments["keys"], arguments["values"]),
            (expected, twin["keys"], twin["values"]),
        )
