"""The Gaussian error linear unit on the CPU, against fp64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from layer_cases import WIDTHS, assert_rounds_alike, normal

from cdgen.kernels.gelu import GeluKind, gelu

KINDS: tuple[GeluKind, ...] = ("tanh", "erf")
# An exp of 2 ulp, a quotient, a handful of products. At x = -8, an ulp of the exponent is 2e-6 of
# its exp, but such results are below 1e-13.
ATOL, RTOL = 1e-7, 2e-6


def gelu64(x: torch.Tensor, kind: GeluKind) -> torch.Tensor:
    """Return gelu in float64, by the complement, which does not cancel for x far below 0."""
    wide = x.double()
    if kind == "erf":
        return wide * torch.special.erfc(-wide / math.sqrt(2)) / 2
    return wide * torch.special.expit(math.sqrt(8 / math.pi) * (wide + 0.044715 * wide**3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_gelu(instruction_set: str, kind: GeluKind, width: int) -> None:
    x = 3 * normal(5, width)
    out = gelu(x, kind)
    assert out.dtype is torch.float32
    torch.testing.assert_close(out.double(), gelu64(x, kind), atol=ATOL, rtol=RTOL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_bf16(instruction_set: str, kind: GeluKind, width: int) -> None:
    """As in fp32, each rounded once: torch's own gelu is too coarse for numbers far below 0."""
    x = 3 * normal(5, width).bfloat16()
    assert_rounds_alike(gelu(x, kind), gelu64(x, kind).bfloat16(), (ATOL, RTOL))


@pytest.mark.parametrize("kind", KINDS)
def test_reference(kind: GeluKind) -> None:
    """The reference is within 1.5e-6: torch's erf is off by up to 5e-7, and so is 1 + erf below 0,
    which |x| / 2 multiplies by at most 3 before erf reaches -1."""
    x = torch.linspace(-14, 14, 5000)[None]
    out = gelu(x, kind, backend="reference").double()
    torch.testing.assert_close(out, gelu64(x, kind), atol=1.5e-6, rtol=RTOL)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_range(instruction_set: str, kind: GeluKind) -> None:
    """From -5.5 up, the relative error is small: even results far below 0 keep their digits."""
    x = torch.linspace(-5.5, 14, 200_001)[None]
    torch.testing.assert_close(gelu(x, kind).double(), gelu64(x, kind), atol=0, rtol=5e-6)
    x = torch.linspace(-20, -5.5, 10_001)[None]
    torch.testing.assert_close(gelu(x, kind).double(), gelu64(x, kind), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", range(9))  # vector lanes and the tail of a row
def test_extreme_numbers(instruction_set: str, kind: GeluKind, position: int) -> None:
    numbers = [-3e38, -1e20, -100.0, -1e-30, 0.0, 1e-30, 100.0, 1e20, 3e38]
    x = torch.tensor([numbers]).roll(position, dims=1)
    expected = torch.where(x.abs() < 1, x / 2, x.clamp(min=0))
    torch.testing.assert_close(gelu(x, kind), expected, atol=1e-37, rtol=0)
    assert gelu(torch.tensor([[math.inf]]), kind).item() == math.inf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", [0, 7, 8, 19])
def test_nan_stays_in_its_place(instruction_set: str, kind: GeluKind, column: int) -> None:
    x = normal(3, 20)
    x[1, column] = math.nan
    assert gelu(x, kind).isnan().nonzero().tolist() == [[1, column]]


@pytest.mark.parametrize("kind", KINDS)
def test_order_batch_and_threads_change_no_bit(
    instruction_set: str,
    kind: GeluKind,
    one_and_two_threads: Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    x = normal(600, 261)
    one, two = one_and_two_threads(lambda: gelu(x, kind))
    assert torch.equal(one, two)
    for some in ([599, 0, 3], [4]):
        assert torch.equal(gelu(x[some], kind), one[some])


@pytest.mark.parametrize(
    "call",
    [
        lambda: gelu(normal(2, 8).half(), "erf"),
        lambda: gelu(normal(2, 12)[:, ::2], "erf"),
        lambda: gelu(normal(2, 8), "sigmoid"),  # type: ignore[arg-type]
    ],
    ids=["half", "strides", "kind"],
)
def test_arguments_are_checked(call: Callable[[], torch.Tensor], no_kernel_runs: None) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
