"""A linear layer with packed weights, on the CPU, against fp64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layer_cases import normal

from cdgen.kernels.packed_linear import PackedWeights, packed_linear

DTYPES = (torch.float32, torch.bfloat16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
Twice = Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]


def problem(
    rows: int, outputs: int, inputs: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:  # x, weight
    return normal(rows, inputs).to(dtype), normal(outputs, inputs, seed=1).to(dtype)


@each_dtype
@pytest.mark.parametrize("backend", ["cpu", "reference"])
# A piece has 128 inputs, or 256 in bf16.
@pytest.mark.parametrize("inputs", [1, 2, 7, 64, 127, 128, 129, 255, 256, 257, 769])
@pytest.mark.parametrize("outputs", [1, 31, 32, 33, 1271])
def test_against_fp64(
    instruction_set: str, outputs: int, inputs: int, backend: str, dtype: torch.dtype
) -> None:
    x, weight = problem(9, outputs, inputs, dtype)
    bias, addend = normal(outputs, seed=2).to(dtype), normal(9, outputs, seed=3).to(dtype)
    weights = PackedWeights(weight, bias)
    out = packed_linear(x, weights, addend, torch.float32, backend)
    assert out.dtype is torch.float32
    wide = x.double() @ weight.double().T + bias.double() + addend.double()
    # Each of `inputs` + 2 additions rounds a partial sum of at most `most` by half a step.
    most = x.double().abs() @ weight.double().abs().T + bias.double().abs() + addend.double().abs()
    assert ((out.double() - wide).abs() <= (inputs + 2) * 2.0**-24 * most).all()
    assert torch.equal(packed_linear(x, weights, addend, None, backend), out.to(dtype))


@each_dtype
@pytest.mark.parametrize("rows", [1, 3, 6, 8, 13, 64, 65, 130])
def test_whole_numbers_are_exact(instruction_set: str, rows: int, dtype: torch.dtype) -> None:
    x, weight = (torch.arange(-n * 70, n * 70).view(-1, 70) % 17 - 8 for n in (rows, 25))
    x, bias = x[:rows].contiguous(), torch.arange(50) % 7
    out = packed_linear(x.to(dtype), PackedWeights(weight.to(dtype), bias.to(dtype)))
    assert torch.equal(out, (x @ weight.T + bias).to(dtype))


@each_dtype
@pytest.mark.parametrize("rows", [1, 8, 63, 64, 65, 130])
def test_a_row_depends_on_itself_alone(
    instruction_set: str, rows: int, dtype: torch.dtype, one_and_two_threads: Twice
) -> None:
    x, weight = problem(rows, 1000, 300, dtype)
    weights = PackedWeights(weight, None)
    one, two = one_and_two_threads(lambda: packed_linear(x, weights))
    assert torch.equal(one, two)
    assert torch.equal(packed_linear(x.flip(0).contiguous(), weights).flip(0), one)
    assert torch.equal(packed_linear(x[-1:], weights)[0], one[-1])
    others = torch.full_like(x, float("nan"))
    others[rows // 2] = x[rows // 2]
    out = packed_linear(others, weights)
    assert torch.equal(out[rows // 2], one[rows // 2])
    assert out.isnan().all(1).sum() == rows - 1


@each_dtype
@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_stacked_models_compute_as_each_alone(
    instruction_set: str, models: int, dtype: torch.dtype, backend: str, one_and_two_threads: Twice
) -> None:
    x, weight = normal(models * 70, 150).to(dtype), normal(models, 200, 150, seed=1).to(dtype)
    bias, addend = normal(models, 200, seed=2).to(dtype), normal(models * 70, 200).to(dtype)
    weights = PackedWeights(weight, bias)
    alone = [
        packed_linear(own, PackedWeights(w, b), more, backend=backend)
        for own, w, b, more in zip(x.split(70), weight, bias, addend.split(70), strict=True)
    ]
    stacked = one_and_two_threads(lambda: packed_linear(x, weights, addend, backend=backend))
    for out in stacked:
        assert torch.equal(out, torch.cat(alone))


@each_dtype
@pytest.mark.parametrize("outputs", [1, 32, 70])
@pytest.mark.parametrize("inputs", [1, 2, 5])
def test_packing_loses_nothing(outputs: int, inputs: int, dtype: torch.dtype) -> None:
    weight = normal(2, outputs, inputs).to(dtype)
    assert torch.equal(PackedWeights(weight, None).unpacked(), weight)
    columns = weight[0].T.contiguous().T  # as GPT-2 keeps its weights
    assert torch.equal(PackedWeights(columns, None).unpacked()[0], weight[0])


@pytest.mark.parametrize(
    ("x", "more", "message"),
    [
        (torch.zeros(2, 6).bfloat16(), {}, "x: expected .*float32, got .*bfloat16"),
        (torch.zeros(2, 5), {}, r"x: expected .*\[2, 6\].* got \[2, 5\]"),
        (torch.zeros(2, 12)[:, ::2], {}, "x: expected contiguous"),
        (torch.zeros(2, 6), {"addend": torch.zeros(2, 41)}, r"addend: .*\[2, 40\].* got \[2, 41\]"),
        (torch.zeros(2, 6), {"out_dtype": torch.bfloat16}, "out_dtype: expected .*float32, got"),
        (torch.zeros(2, 6), {"backend": "triton"}, "triton"),
    ],
)
def test_arguments_are_checked(
    x: torch.Tensor, more: dict[str, object], message: str, no_kernel_runs: None
) -> None:
    weights = PackedWeights(torch.zeros(40, 6), None)
    with pytest.raises(ValueError, match=message):
        packed_linear(x, weights, **more)  # type: ignore[arg-type]


def test_models_must_share_the_rows(no_kernel_runs: None) -> None:
    weights = PackedWeights(torch.zeros(2, 40, 6), None)
    with pytest.raises(ValueError, match="x: expected rows that 2 models share evenly, got 3"):
        packed_linear(torch.zeros(3, 6), weights)


def test_weights_are_checked() -> None:
    with pytest.raises(ValueError, match=r"weight: expected .*bfloat16, got .*float16"):
        PackedWeights(torch.zeros(40, 6).half(), None)
    with pytest.raises(ValueError, match=r"bias: expected .*\[40\].* got \[6\]"):
        PackedWeights(torch.zeros(40, 6), torch.zeros(6))
