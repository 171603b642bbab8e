"""AVX2 and AVX-512 compute the same bits, so a corpus does not depend on which of them a processor
has. Portable code rounds a product before it adds it, so only a sampler that is given BAD's logits,
and then sums no products, must agree with it too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from layer_cases import normal
from sampling_cases import DTYPES, PARAMETERS, coordinates, logit_rows

from cdgen.kernels import reference
from cdgen.kernels.decode_attention import AttentionDropout, decode_attention
from cdgen.kernels.dispatch import native
from cdgen.kernels.gelu import gelu
from cdgen.kernels.layer_norm import layer_norm
from cdgen.kernels.packed_linear import PackedWeights, packed_linear
from cdgen.kernels.rms_norm import rms_norm
from cdgen.kernels.rotary_to_cache import rotary_to_cache
from cdgen.kernels.sample_contrastive import sample_contrastive, sample_contrastive_heads
from cdgen.kernels.sampling_params import SampleOutput
from cdgen.kernels.swiglu import swiglu
from cdgen.kernels.tree_attention import Forest, tree_attention

WIDTHS = (2, 6, 8, 10, 14, 16, 18, 24, 30, 34, 64, 100, 254, 258)  # even, as rotary heads are
ROWS, LENGTHS = 5, (1, 7, 16, 17, 40)


@pytest.fixture
def with_instruction_set() -> Iterator[Callable[[str, Callable[[], list[torch.Tensor]]], None]]:
    """Call a function on one instruction set; skip the test if the processor lacks it."""
    before = native.instruction_set()

    def call(name: str, compute: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
        try:
            native.set_instruction_set(name)
        except ValueError:
            pytest.skip(f"this processor cannot run {name}")
        return compute()

    yield call
    native.set_instruction_set(before)


def attention(width: int) -> list[torch.Tensor]:
    query = normal(ROWS, 4, width)
    keys, values = normal(2, ROWS, 2, max(LENGTHS), width, seed=1)
    dropout = AttentionDropout(0.3, seed=7, layer=2, sequence_ids=torch.arange(ROWS))
    where = {"lengths": torch.tensor(LENGTHS), "scale": 0.3}
    numbers, scales = reference.quantized(torch.stack([keys, values]))
    narrow = query.bfloat16(), keys.bfloat16(), values.bfloat16()
    return [
        *(decode_attention(query, keys, values, **where, dropout=kind) for kind in (None, dropout)),
        decode_attention(*narrow, **where),
        decode_attention(query, *numbers, **where, scales=scales),
    ]


def attention_in_a_tree(width: int) -> list[torch.Tensor]:
    query, keys, values = normal(40, 4, width), normal(40, 2, width, seed=1), normal(40, 2, width)
    return [tree_attention(query, keys, values, Forest(torch.arange(-1, 39)), scale=0.3)]


def rotary(width: int) -> list[torch.Tensor]:
    angle = normal(7, width // 2)
    positions = torch.tensor([0, 6, 2, 3, 3])
    found = []
    for dtype, stored in ((torch.float32, torch.float32), (torch.bfloat16, torch.int8)):
        keys, values = torch.zeros(2, ROWS, 2, 7, width, dtype=stored)
        scales = torch.zeros(2, ROWS, 2, 7) if stored is torch.int8 else None
        query = rotary_to_cache(
            normal(ROWS, 8 * width, seed=1).to(dtype),
            angle.cos(),
            angle.sin(),
            positions,
            keys,
            values,
            query_norm=normal(width, seed=2).to(dtype),
            key_norm=normal(width, seed=3).to(dtype),
            scales=scales,
        )
        found += [query, keys, values, *(() if scales is None else (scales,))]
    return found


def norms(width: int) -> list[torch.Tensor]:
    x, delta = normal(2, ROWS, width)
    gain, bias = normal(2, width, seed=1)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        weights = [y.to(dtype) for y in (delta, gain, bias)]
        found.append(rms_norm(x.clone(), *weights[:2], 1e-5))
        found.append(layer_norm(x.clone(), *weights, 1e-5))
    return found


def activations(width: int) -> list[torch.Tensor]:
    x = 4 * normal(ROWS, width)
    return [op for y in (x, x.bfloat16()) for op in (swiglu(y), gelu(y, "erf"), gelu(y, "tanh"))]


def products(width: int) -> list[torch.Tensor]:
    x, weight, bias = normal(70, width), normal(100, width, seed=1), normal(100, seed=2)
    return [packed_linear(x, PackedWeights(weight, bias), normal(70, 100))]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "op", [attention, attention_in_a_tree, rotary, norms, activations, products]
)
def test_avx512_gives_the_bits_of_avx2(
    op: Callable[[int], list[torch.Tensor]],
    width: int,
    with_instruction_set: Callable[..., list[torch.Tensor]],
) -> None:
    wide = with_instruction_set("avx512", lambda: op(width))
    narrow = with_instruction_set("avx2", lambda: op(width))
    for a, b in zip(wide, narrow, strict=True):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def columns(out: SampleOutput) -> list[torch.Tensor]:
    return [out.tokens, out.status, out.plausible, out.kept]


def noise(rows: int) -> dict[str, Any]:
    return dict(zip(("seed", "sequence_ids", "positions"), coordinates(rows), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("width", WIDTHS)
def test_avx512_draws_with_heads_what_avx2_draws(
    width: int, dtype: torch.dtype, with_instruction_set: Callable[..., list[torch.Tensor]]
) -> None:
    good, _ = logit_rows(1271, dtype)
    hidden, head = normal(len(good), width).to(dtype), normal(1271, width, seed=1).to(dtype)

    def draws() -> list[torch.Tensor]:
        arguments = good, hidden, head
        return [
            column
            for params in PARAMETERS.values()
            for column in columns(sample_contrastive_heads(*arguments, params, **noise(len(good))))
        ]

    wide, narrow = (with_instruction_set(name, draws) for name in ("avx512", "avx2"))
    assert all(map(torch.equal, wide, narrow))


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("vocab", [1, 127, 1271, 50257])
@pytest.mark.parametrize("vectors", ["avx512", "avx2"])
def test_vectors_draw_what_portable_code_draws(
    vectors: str,
    vocab: int,
    dtype: torch.dtype,
    name: str,
    with_instruction_set: Callable[..., list[torch.Tensor]],
) -> None:
    good, bad = logit_rows(vocab, dtype)

    def draws() -> list[torch.Tensor]:
        return columns(sample_contrastive(good, bad, PARAMETERS[name], **noise(len(good))))

    fast, plain = (with_instruction_set(name, draws) for name in (vectors, "portable"))
    assert all(map(torch.equal, fast, plain))
