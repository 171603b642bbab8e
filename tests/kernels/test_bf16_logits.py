"""fp32 logits from a head in bf16, on the CPU, against fp64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layer_cases import normal

from cdgen.kernels.bf16_logits import PackedHead, bf16_logits


def problem(rows: int, vocab: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(rows, width).bfloat16(), normal(vocab, width, seed=1).bfloat16()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("width", [1, 2, 7, 64, 255, 256, 257, 769])  # pieces have 256 inputs
@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 1271])
def test_against_fp64(instruction_set: str, vocab: int, width: int, backend: str) -> None:
    hidden, head = problem(9, vocab, width)
    out = bf16_logits(hidden, PackedHead(head), backend)
    assert out.dtype is torch.float32
    wide = hidden.double() @ head.double().T
    # Each of `width` additions rounds a partial sum of at most `most` by half a step.
    most = hidden.double().abs() @ head.double().abs().T
    assert ((out.double() - wide).abs() <= width * 2.0**-24 * most).all()


def test_whole_numbers_are_exact(instruction_set: str) -> None:
    hidden, head = (torch.arange(-n * 70, n * 70).view(-1, 70) % 17 - 8 for n in (8, 50))
    out = bf16_logits(hidden.bfloat16(), PackedHead(head.bfloat16()))
    assert torch.equal(out, (hidden @ head.T).float())


@pytest.mark.parametrize("rows", [1, 8, 63, 64, 65, 130])
def test_a_row_depends_on_itself_alone(
    instruction_set: str,
    rows: int,
    one_and_two_threads: Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    hidden, weight = problem(rows, 1000, 300)
    head = PackedHead(weight)
    one, two = one_and_two_threads(lambda: bf16_logits(hidden, head))
    assert torch.equal(one, two)
    assert torch.equal(bf16_logits(hidden.flip(0).contiguous(), head).flip(0), one)
    assert torch.equal(bf16_logits(hidden[-1:], head)[0], one[-1])
    others = torch.full_like(hidden, float("nan"))
    others[rows // 2] = hidden[rows // 2]
    out = bf16_logits(others, head)
    assert torch.equal(out[rows // 2], one[rows // 2])
    assert out.isnan().all(1).sum() == rows - 1


@pytest.mark.parametrize("vocab", [1, 32, 70])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_packing_loses_nothing(vocab: int, width: int) -> None:
    _, weight = problem(1, vocab, width)
    assert torch.equal(PackedHead(weight).unpacked(), weight)


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (torch.zeros(2, 6), "hidden: expected .*bfloat16, got .*float32"),
        (torch.zeros(2, 5).bfloat16(), r"hidden: expected .*\[2, 6\].* got \[2, 5\]"),
        (torch.zeros(2, 12).bfloat16()[:, ::2], "hidden: expected contiguous"),
    ],
)
def test_arguments_are_checked(hidden: torch.Tensor, message: str, no_kernel_runs: None) -> None:
    head = PackedHead(torch.zeros(40, 6).bfloat16())
    with pytest.raises(ValueError, match=message):
        bf16_logits(hidden, head)
    with pytest.raises(ValueError, match=r"weight: expected .*bfloat16"):
        PackedHead(torch.zeros(40, 6))
