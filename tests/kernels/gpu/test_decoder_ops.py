"""The small ops of a decoder layer in Triton: rounded as the reference rounds, one model or two."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cdgen.kernels import reference
from cdgen.kernels.decoder_ops import rms_norm, rotary_to_cache, swiglu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDTHS = (1, 7, 64, 100, 769)

# (atol, rtol) of fp32 arithmetic per op, derived in tests/kernels/test_decoder_ops.py.
TOLERANCE = {"rms_norm": (1e-7, 2e-6), "rotary": (1e-6, 1e-6), "swiglu": (1e-7, 2e-6)}


def normal(device: str, dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device, dtype)


def assert_rounds_alike(
    out: torch.Tensor, expected: torch.Tensor, op: str, roundings: int = 1
) -> None:
    """Equal up to fp32 arithmetic. Its last bits decide a rounding to 16 bits about once in 2^12
    numbers; a decision the other way is one step, at each of the `roundings` in a row."""
    assert out.dtype is expected.dtype
    atol, rtol = TOLERANCE[op]
    if out.dtype is not torch.float32:
        rtol += roundings * torch.finfo(out.dtype).eps
        atol += (roundings - 1) * torch.finfo(out.dtype).eps * float(expected.abs().max())
        assert int((out != expected).sum()) <= max(1, out.numel() // 100)
    torch.testing.assert_close(out, expected, atol=atol, rtol=rtol)


@pytest.mark.filterwarnings("ignore:.*encountered in multiply:RuntimeWarning")
def test_rounding_to_bf16_is_to_nearest_even(device: str) -> None:
    """The interpreter's own conversion cuts bits off."""
    step = 2.0**-7  # of bf16 between 1 and 2
    weights = [1.0, 1 + step, 1 + 2 * step, -1 - step, 255.0]
    x = torch.tensor([[1.0, -1.0, 1.0, 1.0, 1.0]]).expand(2, -1).to(device, torch.bfloat16)
    delta = torch.tensor(
        [[step / 2, -step / 2 - step / 8, 1.5 * step, 0.5 * step, float("nan")],
         [float("inf"), float("-inf"), -1.0, 3e38, 2.0**-140]]
    ).to(device, torch.bfloat16)  # fmt: skip
    weight = torch.tensor(weights).to(device, torch.bfloat16)
    out, total = x.clone(), x.clone()
    total += delta
    rms_norm(out, delta, weight, 1e-6, backend="triton")
    torch.testing.assert_close(out, total, atol=0, rtol=0, equal_nan=True)


# rms_norm


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_delta", [False, True], ids=["", "delta"])
def test_rms_norm(device: str, width: int, dtype: torch.dtype, with_delta: bool) -> None:
    x, weight = normal(device, dtype, 3, width), normal(device, dtype, width, seed=1)
    delta = normal(device, dtype, 3, width, seed=2) if with_delta else None
    twin = x.clone()
    out = rms_norm(x, delta, weight, 1e-5, backend="triton")
    expected = rms_norm(twin, delta, weight, 1e-5, backend="reference")
    assert torch.equal(x, twin)  # one rounding, so exact
    assert_rounds_alike(out, expected, "rms_norm", roundings=2)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_rms_norm_of_small_and_large_rows(device: str, scale: float) -> None:
    x, weight = scale * normal(device, torch.float32, 3, 40), torch.ones(40, device=device)
    out = rms_norm(x, None, weight, 1e-6, backend="triton")
    assert_rounds_alike(out, rms_norm(x, None, weight, 1e-6, backend="reference"), "rms_norm")


# rotary_to_cache

ROWS, CAPACITY = 3, 11
POSITIONS = (0, 10, 3)


def rotary_problem(
    device: str,
    heads: int,
    kv_heads: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    models: int = 1,
    stored: torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """Caches, of dtype `stored` or qkv's, are full of what must stay where nothing is written."""
    rows = models * ROWS
    angle = normal("cpu", torch.float32, CAPACITY, width // 2, seed=3)
    caches = normal(device, stored or dtype, 2, rows, kv_heads, CAPACITY, width, seed=4)
    return {
        "qkv": normal(device, dtype, rows, (heads + 2 * kv_heads) * width),
        "cos": angle.cos().to(device), "sin": angle.sin().to(device),
        "positions": torch.tensor(POSITIONS, device=device),
        "keys": caches[0].clone(), "values": caches[1].clone(),
    }  # fmt: skip


def copied(arguments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in arguments.items()}


def assert_same_effects(out: tuple[torch.Tensor, ...], twin: tuple[torch.Tensor, ...]) -> None:
    for one, other in zip(out, twin, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [2, 32, 64, 80, 96, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (9, 3), (16, 2)])
@pytest.mark.parametrize("norms", ["", "query", "both"])
def test_rotary_to_cache(
    device: str, heads: int, kv_heads: int, width: int, dtype: torch.dtype, norms: str
) -> None:
    arguments = rotary_problem(device, heads, kv_heads, width, dtype)
    if norms:
        arguments["query_norm"] = normal(device, dtype, width, seed=5)
    if norms == "both":
        arguments["key_norm"] = normal(device, dtype, width, seed=6)
    twin = copied(arguments)
    query = rotary_to_cache(**arguments, backend="triton")
    expected = rotary_to_cache(**twin, backend="reference")
    roundings = 3 if norms else 1
    assert_rounds_alike(query, expected, "rotary", roundings)
    row = torch.arange(ROWS, device=device)
    position = arguments["positions"]
    written = arguments["keys"][row, :, position]
    assert_rounds_alike(written, twin["keys"][row, :, position], "rotary", roundings)
    arguments["keys"][row, :, position] = twin["keys"][row, :, position]
    assert torch.equal(arguments["keys"], twin["keys"])  # nothing else was written
    assert torch.equal(arguments["values"], twin["values"])


# rotary_to_cache to caches in fp8

FP8 = torch.float8_e4m3fn


@pytest.fixture
def fp8_device(device: str) -> str:
    """The device, or a skip where it is a GPU that cannot convert e4m3."""
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 needs compute capability 8.9")
    return device


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [2, 64, 80])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (9, 3)])
@pytest.mark.parametrize("norms", ["", "both"])
def test_rotary_to_an_fp8_cache(
    fp8_device: str, heads: int, kv_heads: int, width: int, dtype: torch.dtype, norms: str
) -> None:
    arguments = rotary_problem(fp8_device, heads, kv_heads, width, dtype, models=2, stored=FP8)
    arguments["qkv"] *= 20  # from subnormals to numbers near the largest
    if norms:
        arguments["query_norm"] = normal(fp8_device, dtype, width, seed=5)
        arguments["key_norm"] = normal(fp8_device, dtype, width, seed=6)
    twin = copied(arguments)
    query = rotary_to_cache(**arguments, backend="triton")
    expected = rotary_to_cache(**twin, backend="reference")
    assert_rounds_alike(query / 20, expected / 20, "rotary", 3 if norms else 1)
    assert torch.equal(bits(arguments["values"]), bits(twin["values"]))
    # Keys carry fp32's last bits into the rounding, or a step of 16 bits after norms, which decides
    # it the other way once in 2^5 numbers at most; neighbours in e4m3 have neighbouring codes.
    codes, theirs = bits(arguments["keys"]).int(), bits(twin["keys"]).int()
    assert int((codes - theirs).abs().max()) <= 1
    written = 2 * ROWS * kv_heads * width
    assert int((codes != theirs).sum()) <= max(1, written // 32 if norms else written // 1000)


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")
def test_fp8_rounds_to_nearest_even_and_saturates(fp8_device: str) -> None:
    """Every number of e4m3, the middle between two, and what lies right beside the middle; keys at
    angle 0, where they are not turned, and values."""
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
    # inf * sin 0 and 0 * inf make NaN of an infinite key and its pair.
    finite = (x.isfinite() & x.roll(2, dims=1).isfinite()).to(fp8_device)
    # As numbers: -0 - 0 * sin 0 may be either zero.
    assert torch.equal(caches[0].view(rows, 4)[finite].float(), expected[finite].float())


def test_reference_stores_fp8_by_its_definition() -> None:
    x = torch.tensor([448.0, 463.9, 464.0, 1e9, math.inf, -math.inf, 17.0, 19.0, 0.0009765625, 0.5])
    found = reference.stored(x, FP8).float().tolist()
    assert found == [448, 448, 448, 448, 448, -448, 16, 20, 0, 0.5]
    assert reference.stored(torch.tensor([math.nan]), FP8).float().isnan().all()


def test_nan_in_an_fp8_cache_stays_in_its_row_and_head(fp8_device: str) -> None:
    arguments = rotary_problem(fp8_device, 2, 2, 32, stored=FP8)
    arguments["qkv"].view(ROWS, 6, 32)[1, [2, 5], 3] = math.nan  # the first key, the second value
    rotary_to_cache(**arguments, backend="triton")
    for name, head, where in (("keys", 0, [3, 19]), ("values", 1, [3])):
        found = arguments[name].float().isnan().nonzero().tolist()
        assert found == [[1, head, POSITIONS[1], i] for i in where]


# swiglu


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", (*WIDTHS, 1500))
def test_swiglu(device: str, width: int, dtype: torch.dtype) -> None:
    gate_up = 3 * normal(device, dtype, 3, 2 * width)
    out = swiglu(gate_up, backend="triton")
    assert_rounds_alike(out, swiglu(gate_up, backend="reference"), "swiglu")


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
def test_swiglu_of_extreme_gates(device: str) -> None:
    gates = [-100.0, -88.0, -87.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 87.0, 100.0, 3e38]
    gate = torch.tensor([gates], device=device)
    out = swiglu(torch.cat([gate, torch.ones_like(gate)], dim=1), backend="triton")
    expected = gate.double() * torch.special.expit(gate.double())
    torch.testing.assert_close(out.double(), expected, atol=1e-7, rtol=2e-6)


def test_against_the_native_kernels(device: str) -> None:
    pytest.importorskip("cdgen.kernels._cpu")
    x, weight = normal(device, torch.float32, 3, 200), normal(device, torch.float32, 200, seed=1)
    pairs = [
        ("rms_norm", lambda x, backend: rms_norm(x, None, weight.to(x.device), 1e-5, backend)),
        ("swiglu", swiglu),
    ]
    for name, op in pairs:
        assert_rounds_alike(op(x, "triton").cpu(), op(x.cpu(), "cpu"), name)
    arguments = rotary_problem(device, 4, 2, 80)
    arguments["key_norm"] = normal(device, torch.float32, 80, seed=6)
    twin = {name: tensor.cpu().clone() for name, tensor in arguments.items()}
    query = rotary_to_cache(**arguments, backend="triton")
    assert_rounds_alike(query.cpu(), rotary_to_cache(**twin, backend="cpu"), "rotary")
    assert_rounds_alike(arguments["keys"].cpu(), twin["keys"], "rotary")


# Two models in one launch


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_rms_norm_of_stacked_models(device: str, backend: str) -> None:
    x, delta = normal(device, torch.float32, 6, 40), normal(device, torch.float32, 6, 40, seed=1)
    weight = normal(device, torch.float32, 2, 40, seed=2)
    halves = [
        rms_norm(x[rows].clone(), delta[rows], weight[model], 1e-6, backend=backend)
        for model, rows in enumerate((slice(3), slice(3, 6)))
    ]
    residual = x + delta
    assert torch.equal(rms_norm(x, delta, weight, 1e-6, backend=backend), torch.cat(halves))
    assert torch.equal(x, residual)


@pytest.mark.parametrize("norms", ["", "key_norm", "both"])
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_rotary_of_stacked_models(device: str, backend: str, norms: str) -> None:
    stacked = rotary_problem(device, 4, 2, 32, models=2)
    names = {"": (), "both": ("query_norm", "key_norm")}.get(norms, (norms,))
    gains = {name: normal(device, torch.float32, 2, 32, seed=len(name)) for name in names}
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
    x, delta = normal(device, dtype, 3, 260), normal(device, dtype, 3, 260, seed=1)
    weight = normal(device, dtype, 260, seed=2)
    rotary = rotary_problem(device, 4, 2, 32, dtype)

    def all_ops(some: list[int]) -> torch.Tensor:
        normed = rms_norm(x[some], delta[some], weight, 1e-6, backend="triton")
        names = ("qkv", "positions", "keys", "values")
        arguments = rotary | {name: rotary[name][some] for name in names}
        query = rotary_to_cache(**arguments, backend="triton")
        results = (normed, query, arguments["keys"], swiglu(delta[some], backend="triton"))
        return torch.cat([y.flatten(1) for y in results], dim=1)

    everything = all_ops([0, 1, 2])
    for some in ([2, 0, 1], [1], [1, 1]):
        assert torch.equal(all_ops(some), everything[some])


# The ops in torch.library


def library_calls(device: str) -> dict[str, tuple[Any, ...]]:
    rotary = rotary_problem(device, 4, 2, 32, torch.bfloat16)
    row, gain = normal(device, torch.bfloat16, 3, 64), normal(device, torch.bfloat16, 1, 32)
    return {
        "rms_norm": (row, row.clone(), normal(device, torch.bfloat16, 1, 64), 1e-6),
        "rotary_to_cache": (*rotary.values(), gain, None, 1e-6),
        "swiglu": (row,),
    }


@pytest.mark.parametrize("op", ["rms_norm", "rotary_to_cache", "swiglu"])
def test_the_registered_op_is_what_it_declares(device: str, op: str) -> None:
    from cdgen.kernels.gpu import decoder_ops

    torch.library.opcheck(getattr(decoder_ops, op), library_calls(device)[op])


def test_compiles_into_one_graph(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In-place effects included: on the residual stream, and on the caches."""
    # Asked for CPU tensors only; the compiler cannot follow it into Triton's environment.
    monkeypatch.setattr("cdgen.kernels.dispatch.interpreting", lambda: True)
    weight = normal(device, torch.float32, 256, seed=2)

    def layer(
        x: torch.Tensor, delta: torch.Tensor, rotary: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        qkv = rms_norm(x, delta, weight, 1e-6, backend="triton")
        query = rotary_to_cache(**(rotary | {"qkv": qkv}), backend="triton")
        return swiglu(query.flatten(1), backend="triton") + x[:, :64]

    results = []
    for call in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        x, delta = (normal(device, torch.float32, ROWS, 256, seed=seed) for seed in (0, 1))
        rotary = rotary_problem(device, 4, 2, 32)
        results.append((call(x, delta, rotary), x, rotary["keys"], rotary["values"]))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_bytes_follow_their_formulas(device: str) -> None:
    from cdgen.kernels.gpu import decoder_ops

    x, weight = normal(device, torch.bfloat16, 3, 64), normal(device, torch.bfloat16, 2, 64)
    assert decoder_ops.rms_norm_bytes(x, None, weight) == 2 * (2 * 3 * 64 + 2 * 64)
    assert decoder_ops.rms_norm_bytes(x, x, weight) == 2 * (4 * 3 * 64 + 2 * 64)
    assert decoder_ops.swiglu_bytes(x) == 2 * (3 * 3 * 32)
    rotary = rotary_problem(device, 4, 2, 32, torch.bfloat16, models=2)
    moved = decoder_ops.rotary_to_cache_bytes(
        *(rotary[n] for n in ("qkv", "cos", "positions", "keys"))
    )
    assert moved == 2 * (2 * 6 * 8 * 32) + 8 * 3 + 4 * (2 * 3 * 16)
    moved_fp8 = decoder_ops.rotary_to_cache_bytes(
        rotary["qkv"], rotary["cos"], rotary["positions"], rotary["keys"].to(FP8)
    )
    assert moved - moved_fp8 == 6 * 2 * 2 * 32  # R rows, keys and values, Hkv heads of D numbers


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: rms_norm(x, None, x[0].float(), 1e-6, "triton"), "weight: expected .*bfloat16"),
        (
            lambda x: rms_norm(x, None, x[:2, :], 1e-6, "triton"),
            "weight: expected .* 3 rows evenly",
        ),
        (lambda x: rms_norm(x, x.half(), x[0], 1e-6, "triton"), "delta: expected .*bfloat16"),
        (lambda x: swiglu(x.double(), "triton"), "gate_up: expected torch.float32 or .*float64"),
        (lambda x: swiglu(x.cpu(), "cpu"), "gate_up: expected torch.float32, got torch.bfloat16"),
    ],
    ids=["weight dtype", "models", "delta dtype", "float64", "cpu"],
)
def test_arguments_are_checked(
    device: str, call: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(normal(device, torch.bfloat16, 3, 8))


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (
            "positions",
            torch.zeros(2, dtype=torch.int64),
            r"positions: expected .*\[3\].* got \[2\]",
        ),
        ("keys", torch.zeros(3, 2, CAPACITY, 8).half(), "keys: expected .*float32, got .*float16"),
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
def test_arguments_of_rotary_are_checked(
    device: str, argument: str, value: torch.Tensor, message: str
) -> None:
    arguments = rotary_problem(device, 4, 2, 8) | {"query_norm": torch.ones(8, device=device)}
    with pytest.raises(ValueError, match=message):
        rotary_to_cache(**(arguments | {argument: value.to(device)}), backend="triton")


# On a GPU alone


@pytest.mark.gpu
def test_a_cache_beyond_two_to_the_31_elements(device: str) -> None:
    rows, kv_heads, capacity, width = 33, 8, 65536, 128
    keys, values = (
        torch.empty(rows, kv_heads, capacity, width, dtype=torch.bfloat16, device=device)
        for _ in range(2)
    )
    assert keys.numel() > 2**31
    qkv = normal(device, torch.bfloat16, rows, 3 * kv_heads * width)
    cos, sin = torch.ones(capacity, width // 2), torch.zeros(capacity, width // 2)
    positions = torch.full((rows,), capacity - 1, device=device)
    query = rotary_to_cache(qkv, cos.to(device), sin.to(device), positions, keys, values)
    parts = qkv.view(rows, 3, kv_heads, width).unbind(1)
    assert_same_effects((query, keys[:, :, -1], values[:, :, -1]), parts)
    assert int((~keys.isnan()).sum()) == int((~values.isnan()).sum()) == parts[1].numel()


@pytest.mark.gpu
def test_a_replayed_graph_sees_new_positions(device: str) -> None:
    arguments = rotary_problem(device, 4, 2, 64, torch.bfloat16)
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
