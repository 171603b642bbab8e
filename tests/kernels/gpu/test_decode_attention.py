"""Decode attention in Triton: the reference's values; a row's bits whoever its neighbours are."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from grids import thinned

from cdgen.kernels import reference
from cdgen.kernels.decode_attention import AttentionDropout, decode_attention

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDTHS = (32, 64, 80, 96, 128)
FP8 = torch.float8_e4m3fn
CAPACITY = 70
LENGTHS = (1, CAPACITY, 33)

# Of fp32 arithmetic on outputs of order 1: sums of up to 128 products and 70 weights, an exp of
# 2 ulp (tests/kernels/test_decode_attention.py).
ATOL, RTOL = 2e-6, 2e-5


def problem(
    device: str,
    heads: int,
    kv_heads: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    models: int = 1,
    capacity: int = CAPACITY,
    stored: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, keys and values for the rows of `models` models, and lengths; NaN past the
    lengths. Keys and values have dtype `stored`, or else the query's."""
    generator = torch.Generator().manual_seed(width)
    rows = models * len(LENGTHS)
    query = torch.randn(rows, heads, width, generator=generator)
    keys, values = torch.randn(2, rows, kv_heads, capacity, width, generator=generator)
    for row in range(rows):
        keys[row, :, LENGTHS[row % len(LENGTHS)] :] = math.nan
        values[row, :, LENGTHS[row % len(LENGTHS)] :] = math.nan
    query, keys, values = query.to(dtype), keys.to(stored or dtype), values.to(stored or dtype)
    query, keys, values = (x.to(device) for x in (query, keys, values))
    return query, keys, values, torch.tensor(LENGTHS, device=device)


def attend(*tensors: torch.Tensor, **options: Any) -> torch.Tensor:
    return decode_attention(*tensors, **({"scale": 0.2, "backend": "triton"} | options))


def assert_attends(
    out: torch.Tensor,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
    dropout: AttentionDropout | None = None,
) -> None:
    """Assert that `out` is the reference's in fp32 up to fp32 arithmetic, the rounding of the
    result and, if query heads share KV heads, that of every weight before a matrix product."""
    q, k, v = query.float(), keys.float(), values.float()
    options = {"dropout": dropout, "backend": "reference"}
    expected = attend(q, k, v, lengths, **options)
    tolerance = ATOL + RTOL * expected.abs()
    if query.dtype is not torch.float32:
        unit = torch.finfo(query.dtype).eps / 2
        tolerance += unit * expected.abs()
        if query.shape[1] > keys.shape[1]:
            tolerance += unit * (1 + unit) * attend(q, k, v.abs(), lengths, **options)
    assert out.dtype is query.dtype
    excess = (out.float() - expected).abs() / tolerance
    assert bool((excess <= 1).all()), f"{float(excess.max()):.2f} times the tolerance"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (4, 1), (8, 1)])
def test_against_the_reference(
    device: str, heads: int, kv_heads: int, width: int, dtype: torch.dtype
) -> None:
    tensors = problem(device, heads, kv_heads, width, dtype)
    out = attend(*tensors)
    assert_attends(out, *tensors)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
def test_against_the_native_kernel(device: str, heads: int, kv_heads: int, width: int) -> None:
    pytest.importorskip("cdgen.kernels._cpu")
    tensors = problem(device, heads, kv_heads, width)
    native = attend(*(x.cpu() for x in tensors), backend="cpu")
    torch.testing.assert_close(attend(*tensors).cpu(), native, atol=2 * ATOL, rtol=2 * RTOL)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 1)])
def test_every_length(device: str, heads: int, kv_heads: int) -> None:
    capacity = 35  # two tiles of either kernel and a rest
    query = torch.randn(capacity, heads, 32, device=device)
    keys, values = torch.randn(2, capacity, kv_heads, capacity, 32, device=device)
    lengths = torch.arange(1, capacity + 1, device=device)
    tensors = query, keys, values, lengths
    assert_attends(attend(*tensors), *tensors)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 1)])
@pytest.mark.parametrize("width", [1, 5, 17, 256])
def test_other_head_sizes(device: str, heads: int, kv_heads: int, width: int) -> None:
    tensors = problem(device, heads, kv_heads, width)
    assert_attends(attend(*tensors), *tensors)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of the interpreter's maximum
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
@pytest.mark.parametrize("where", ["query", "keys", "values"])
def test_nan_reaches_the_output_of_its_head_alone(
    device: str, heads: int, kv_heads: int, where: str
) -> None:
    query, keys, values, lengths = problem(device, heads, kv_heads, 80)
    clean = attend(query, keys, values, lengths)
    row, kv_head, column, entry = 1, 1, 79, LENGTHS[1] - 1
    reached = torch.zeros_like(clean, dtype=torch.bool)
    if where == "query":
        query[row, heads - 1, column] = math.nan
        reached[row, heads - 1] = True
    else:
        {"keys": keys, "values": values}[where][row, kv_head, entry, column] = math.nan
        group = slice(heads // 2, None)
        reached[row, group, slice(None) if where == "keys" else column] = True
    out = attend(query, keys, values, lengths)
    assert torch.equal(out.isnan(), reached)
    assert torch.equal(out[~reached], clean[~reached])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1)])
def test_order_batch_neighbours_and_room_change_no_bit(
    device: str, heads: int, kv_heads: int, dtype: torch.dtype
) -> None:
    query, keys, values, lengths = problem(device, heads, kv_heads, 80, dtype)
    all_rows = attend(query, keys, values, lengths)
    for rows in ([2, 0, 1], [2], [2, 2]):
        some = [x[rows].contiguous() for x in (query, keys, values, lengths)]
        assert torch.equal(attend(*some), all_rows[rows])
    others = lengths.clone()
    others[:2] = torch.tensor([1, 40])
    assert torch.equal(attend(query, keys, values, others)[2], all_rows[2])
    short = [x[2:, :, : LENGTHS[2]].contiguous() for x in (keys, values)]
    assert torch.equal(attend(query[2:], *short, lengths[2:])[0], all_rows[2])


# Dropout


def dropout_of(device: str, **changes: Any) -> AttentionDropout:
    ids = torch.tensor([7, 2**31, 2**48 - 1], device=device)
    return replace(AttentionDropout(0.5, 2**64 - 3, 5, ids), **changes)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (6, 2)])
def test_dropout_keeps_what_the_reference_keeps(
    device: str, heads: int, kv_heads: int, rate: float
) -> None:
    """The weights of uniform attention are read off one-hot values."""
    rows, capacity = 3, 64
    lengths = torch.tensor([64, 37, 1], device=device)
    query = torch.zeros(rows, heads, capacity, device=device)
    values = torch.eye(capacity, device=device).expand(rows, kv_heads, -1, -1).contiguous()
    for seed, layer in ((2**63 + 5, 0), (2**31, 20000 // heads)):
        dropout = dropout_of(device, rate=rate, seed=seed, layer=layer)
        out = attend(query, torch.zeros_like(values), values, lengths, dropout=dropout)
        keep = reference.dropout_keep(
            seed, rate, layer, dropout.sequence_ids, lengths, heads, capacity
        )
        inside = torch.arange(capacity, device=device) < lengths[:, None, None]
        expected = (keep & inside) / (lengths[:, None, None] * (1 - rate))
        torch.testing.assert_close(out, expected, atol=0, rtol=1e-5)


def test_dropout_bound_is_exact_where_a_word_meets_it(device: str) -> None:
    ids, lengths = torch.tensor([7], device=device), torch.tensor([4], device=device)
    values = torch.eye(4, device=device)[None, None]
    words = reference.random_words(0xFFFFFFFF << 32, ids, lengths - 1, 4)[0].tolist()
    for key, word in enumerate(words):
        for rate, kept in ((word / 2**32, True), ((word + 1) / 2**32, False)):
            out = attend(
                torch.zeros(1, 1, 4, device=device),
                torch.zeros_like(values),
                values,
                lengths,
                dropout=AttentionDropout(rate, 0, 0, ids),
            )
            assert bool(out[0, 0, key] > 0) == kept, f"word {word}, rate {rate}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1)])
def test_dropout_against_the_reference(
    device: str, heads: int, kv_heads: int, dtype: torch.dtype
) -> None:
    tensors = problem(device, heads, kv_heads, 96, dtype)
    dropout = dropout_of(device)
    assert_attends(attend(*tensors, dropout=dropout), *tensors, dropout)


# Two models in one launch


@pytest.mark.parametrize("dropped", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1)])
def test_stacked_models_equal_each_alone(
    device: str, heads: int, kv_heads: int, dropped: bool
) -> None:
    query, keys, values, lengths = problem(device, heads, kv_heads, 64, models=2)
    first_row = len(lengths)
    dropout = dropout_of(device) if dropped else None
    good = attend(*(x[:first_row] for x in (query, keys, values)), lengths)
    bad = attend(*(x[first_row:] for x in (query, keys, values)), lengths, dropout=dropout)
    if dropout:
        dropout = replace(dropout, first_row=first_row)
    stacked = attend(query, keys, values, lengths, dropout=dropout)
    assert torch.equal(stacked, torch.cat([good, bad]))


@pytest.mark.parametrize("first_row", [1, 3, 6])
def test_rows_before_the_first_keep_every_weight(device: str, first_row: int) -> None:
    tensors = problem(device, 2, 2, 32, models=2)
    dropout = dropout_of(device, first_row=first_row)
    out, all_kept = attend(*tensors, dropout=dropout), attend(*tensors)
    assert_attends(out, *tensors, dropout)
    same = [torch.equal(*pair) for pair in zip(out, all_kept, strict=True)]
    assert same == [row < first_row for row in range(6)]


# The op in torch.library


def library_arguments(device: str, dropped: bool) -> tuple[Any, ...]:
    tensors = problem(device, 4, 2, 32, torch.bfloat16)
    return (*tensors, 0.2, dropout_of(device).sequence_ids if dropped else None, 0.5, 3, 4, 1, 0)


@pytest.mark.parametrize("dropped", [False, True], ids=["", "dropout"])
def test_the_registered_op_is_what_it_declares(device: str, dropped: bool) -> None:
    from cdgen.kernels.gpu.decode_attention import decode_attention as op

    torch.library.opcheck(op, library_arguments(device, dropped))


def test_compiles_into_one_graph(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Asked for CPU tensors only; the compiler cannot follow it into Triton's environment.
    monkeypatch.setattr("cdgen.kernels.dispatch.interpreting", lambda: True)
    tensors = problem(device, 4, 2, 32)
    dropout = dropout_of(device)

    def doubled(*tensors: torch.Tensor) -> torch.Tensor:
        return 2 * attend(*tensors, dropout=dropout)

    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*tensors), doubled(*tensors))


def test_bytes_are_those_of_the_cache_up_to_each_length(device: str) -> None:
    from cdgen.kernels.gpu.decode_attention import decode_attention_bytes

    query, keys, _, lengths = problem(device, 4, 2, 32, torch.bfloat16, models=2)
    entries = 2 * sum(LENGTHS)
    expected = 2 * entries * 2 * 32 * 2 + 2 * 6 * 4 * 32 * 2 + 3 * 8
    assert decode_attention_bytes(query, keys, lengths) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(4, 4, 8).double()}, "query: expected torch.float32 or .*float64"),
        (
            {"keys": torch.zeros(4, 2, 9, 8).half()},
            "keys: expected .*float32 or .*float8_e4m3fn, got .*float16",
        ),
        ({"lengths": torch.ones(3, dtype=torch.int64)}, r"lengths: expected .*\[4\].* got \[3\]"),
        ({"dropout": AttentionDropout(0.5, 0, 0, torch.arange(2))}, "sequence_ids: expected"),
        ({"dropout": AttentionDropout(0.5, 0, 0, torch.arange(4), 5)}, "first_row: expected 0 to"),
    ],
)
def test_arguments_are_checked(device: str, changes: dict[str, Any], message: str) -> None:
    cache = torch.zeros(4, 2, 9, 8)
    arguments = {
        "query": torch.zeros(4, 4, 8),
        "keys": cache,
        "values": cache,
        "lengths": torch.ones(4, dtype=torch.int64),
    } | changes
    on_device = {k: x.to(device) if torch.is_tensor(x) else x for k, x in arguments.items()}
    with pytest.raises(ValueError, match=message):
        decode_attention(**on_device, scale=1.0, backend="triton")


def test_heads_too_wide_are_refused(device: str) -> None:
    with pytest.raises(ValueError, match="expected head_dim up to 256, got 257"):
        attend(*problem(device, 1, 1, 257))


# Caches in fp8


@pytest.fixture
def fp8_device(device: str) -> str:
    """Return the device; skip the test on a GPU that cannot convert e4m3."""
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 needs compute capability 8.9")
    return device


@pytest.mark.parametrize(
    "dtype, width, shared, dropped",
    thinned(
        DTYPES,
        [5, 64, 80, 128],
        {"2-2": (2, 2), "4-2": (4, 2), "8-1": (8, 1)},
        {"": False, "dropout": True},
        keep_every=2,
    ),
)
def test_fp8_against_the_reference(
    fp8_device: str,
    shared: tuple[int, int],  # heads, kv_heads
    width: int,
    dtype: torch.dtype,
    dropped: bool,
) -> None:
    heads, kv_heads = shared
    tensors = problem(fp8_device, heads, kv_heads, width, dtype, models=2, stored=FP8)
    dropout = dropout_of(fp8_device, first_row=len(LENGTHS)) if dropped else None
    out = attend(*tensors, dropout=dropout)
    assert_attends(out, *tensors, dropout)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
def test_every_length_of_an_fp8_cache(fp8_device: str, heads: int, kv_heads: int) -> None:
    capacity = 67  # the borders of 16, 32 and 64 keys, and what lies around them
    query = torch.randn(capacity, heads, 32, device=fp8_device)
    keys, values = torch.randn(2, capacity, kv_heads, capacity, 32, device=fp8_device).to(FP8)
    lengths = torch.arange(1, capacity + 1, device=fp8_device)
    tensors = query, keys, values, lengths
    assert_attends(attend(*tensors), *tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 1)])
def test_every_fp8_number_is_read_as_it_is(
    fp8_device: str, heads: int, kv_heads: int, dtype: torch.dtype
) -> None:
    """With one key, the output is its value, subnormals, +-448 and both NaNs included."""
    numbers = torch.arange(256).to(torch.uint8).view(FP8).view(4, 1, 1, 64).to(fp8_device)
    query = torch.ones(4, heads, 64, dtype=dtype, device=fp8_device)
    lengths = torch.ones(4, dtype=torch.int64, device=fp8_device)
    out = attend(query, torch.zeros_like(numbers), numbers, lengths)
    expected = numbers[:, 0].to(dtype).expand(-1, heads, -1)  # exact: 4 bits of precision
    torch.testing.assert_close(out, expected, atol=0, rtol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of the interpreter's maximum
@pytest.mark.parametrize("code", [0x7F, 0xFF])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
@pytest.mark.parametrize("where", ["keys", "values"])
def test_fp8_nan_reaches_the_output_of_its_head_alone(
    fp8_device: str, heads: int, kv_heads: int, where: str, code: int
) -> None:
    query, keys, values, lengths = problem(fp8_device, heads, kv_heads, 80, stored=FP8)
    clean = attend(query, keys, values, lengths)
    cache = {"keys": keys, "values": values}[where].view(torch.uint8)
    cache[1, 1, LENGTHS[1] - 1, 79] = code
    reached = torch.zeros_like(clean, dtype=torch.bool)
    reached[1, heads // 2 :, slice(None) if where == "keys" else 79] = True
    out = attend(query, keys, values, lengths)
    assert torch.equal(out.isnan(), reached)
    assert torch.equal(out[~reached], clean[~reached])


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1)])
def test_neighbours_change_no_bit_beside_an_fp8_cache(
    fp8_device: str, heads: int, kv_heads: int
) -> None:
    query, keys, values, lengths = problem(
        fp8_device, heads, kv_heads, 80, torch.bfloat16, stored=FP8
    )
    all_rows = attend(query, keys, values, lengths)
    for rows in ([2, 0, 1], [2], [2, 2]):
        some = [x[rows].contiguous() for x in (query, keys, values, lengths)]
        assert torch.equal(attend(*some), all_rows[rows])
    short = [x[2:, :, : LENGTHS[2]].contiguous() for x in (keys, values)]
    assert torch.equal(attend(query[2:], *short, lengths[2:])[0], all_rows[2])


def test_bytes_are_those_of_the_caches_own_numbers(device: str) -> None:
    from cdgen.kernels.gpu.decode_attention import decode_attention_bytes

    query, keys, _, lengths = problem(device, 4, 2, 32, torch.bfloat16, stored=FP8)
    expected = sum(LENGTHS) * 2 * 2 * 32 + 2 * 3 * 4 * 32 * 2 + 3 * 8
    assert decode_attention_bytes(query, keys, lengths) == expected


def test_the_op_on_an_fp8_cache_is_what_it_declares(fp8_device: str) -> None:
    from cdgen.kernels.gpu.decode_attention import decode_attention as op

    tensors = problem(fp8_device, 4, 2, 32, torch.bfloat16, stored=FP8)
    # opcheck's other tests multiply the inputs, which torch does not do in fp8.
    torch.library.opcheck(op, (*tensors, 0.2, None, 0.0, 0, 0, 0, 0), test_utils="test_faketensor")


def test_caches_of_two_dtypes_are_refused(device: str) -> None:
    query, keys, values, lengths = problem(device, 2, 2, 32, stored=FP8)
    with pytest.raises(ValueError, match=r"values: expected .*float8_e4m3fn, got .*float32"):
        attend(query, keys, values.float(), lengths)
    with pytest.raises(
        ValueError, match=r"keys: expected .*float32 or .*e4m3fn, got .*float8_e5m2"
    ):
        attend(query, *(x.to(torch.float8_e5m2) for x in (keys, values)), lengths)


@pytest.mark.parametrize("capability", [80, 86, 89, 90])
def test_a_gpu_without_e4m3_is_named(monkeypatch: pytest.MonkeyPatch, capability: int) -> None:
    from cdgen.kernels.gpu import precision

    driver = SimpleNamespace(get_current_target=lambda: SimpleNamespace(arch=capability))
    monkeypatch.setattr(precision, "interpreting", lambda: False)
    monkeypatch.setattr(precision.triton.runtime.driver, "_active", driver)
    precision.require_fp8("keys", torch.zeros(1))
    if capability >= 89:
        precision.require_fp8("keys", torch.zeros(1).to(FP8))
        return
    message = rf"keys: expected .* on compute capability 8\.{capability % 10}, got .*float8_e4m3fn"
    with pytest.raises(ValueError, match=message):
        precision.require_fp8("keys", torch.zeros(1).to(FP8))


# On a GPU alone


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [8, 32])
def test_caches_beyond_two_to_the_31_elements(device: str, heads: int) -> None:
    rows, kv_heads, capacity, width, length = 33, 8, 65536, 128, 301
    keys, values = (
        torch.empty(rows, kv_heads, capacity, width, dtype=torch.bfloat16, device=device)
        for _ in range(2)
    )
    assert keys.numel() > 2**31
    query = torch.randn(rows, heads, width, device=device).bfloat16()
    lengths = torch.ones(rows, dtype=torch.int64, device=device)
    lengths[-1] = length
    for cache in (keys, values):
        cache[-1, :, :length].normal_()
    last = query[-1:], *(x[-1:, :, :length].contiguous() for x in (keys, values)), lengths[-1:]
    assert_attends(attend(query, keys, values, lengths)[-1:], *last)


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 2)])
def test_a_replayed_graph_sees_new_lengths(device: str, heads: int, kv_heads: int) -> None:
    query, keys, values, lengths = problem(device, heads, kv_heads, 64, torch.bfloat16)
    keys.nan_to_num_()
    values.nan_to_num_()
    dropout = dropout_of(device)
    attend(query, keys, values, lengths, dropout=dropout)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(query, keys, values, lengths, dropout=dropout)
    for new in ([5, 6, 7], [70, 1, 16]):
        lengths.copy_(torch.tensor(new))
        graph.replay()
        assert torch.equal(out, attend(query, keys, values, lengths, dropout=dropout))
