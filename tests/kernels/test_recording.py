"""Native calls that are recorded once and repeated on other numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layer_cases import normal

from cdgen.kernels.packed_linear import PackedWeights, packed_linear
from cdgen.kernels.recording import Recorded, cat, empty, kept, next_layer
from cdgen.kernels.rms_norm import rms_norm

ROWS, WIDTH, LAYERS = 70, 256, 5


class Stack:
    """Layers of a norm and a product, whose last two results and an early one are returned."""

    def __init__(self) -> None:
        self.gain = [normal(WIDTH, seed=i) for i in range(LAYERS)]
        self.weights = [
            PackedWeights(normal(WIDTH, WIDTH, seed=10 + i) / 16, None) for i in range(LAYERS)
        ]
        self.runs = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        delta, early = None, x
        for i, (gain, weights) in enumerate(zip(self.gain, self.weights, strict=True)):
            next_layer()
            normed = rms_norm(x, delta, gain, 1e-5)
            if i == 1:
                early = kept(normed)
            delta = packed_linear(normed, weights)
        return cat([normed, delta, early])


@pytest.mark.parametrize("mode", [True, False])
def test_later_calls_compute_what_the_function_does(
    mode: bool,
    one_and_two_threads: Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, ...]],
) -> None:
    stack = Stack()
    inputs = [normal(ROWS, WIDTH, seed=seed) for seed in range(4)]
    expected = [stack(x.clone()) for x in inputs]
    stack.runs = 0
    recorded = Recorded(stack)
    with torch.inference_mode(mode):
        found = [recorded(x) for x in inputs]
    assert stack.runs == 1
    assert all(map(torch.equal, found, expected))
    for x, out in zip(inputs, expected, strict=True):
        assert all(
            torch.equal(again, out) for again in one_and_two_threads(lambda x=x: recorded(x))
        )


def test_inputs_are_left_as_they_are() -> None:
    recorded, x = Recorded(Stack()), normal(ROWS, WIDTH)
    before = x.clone()
    recorded(x), recorded(x)
    assert torch.equal(x, before)


def test_layers_write_to_the_same_memory_in_turns() -> None:
    seen: list[int] = []

    def compute(x: torch.Tensor) -> torch.Tensor:
        for _ in range(6):
            next_layer()
            seen.append(empty(4, dtype=torch.float32).data_ptr())
        return x

    Recorded(compute)(torch.zeros(1))
    assert seen[0] != seen[1]
    assert seen == seen[:2] * 3


def test_without_a_recording_nothing_is_overwritten() -> None:
    results = []
    for _ in range(4):
        next_layer()
        results.append(kept(empty(4, dtype=torch.float32)))
    assert len({x.data_ptr() for x in results}) == 4
    assert torch.equal(cat([torch.ones(1, 2), torch.zeros(2, 2)]).sum(1), torch.tensor([2.0, 0, 0]))


def test_two_recordings_do_not_mix() -> None:
    inner = Recorded(Stack())
    x = normal(ROWS, WIDTH)
    expected = Stack()(x.clone())
    inner(x)
    outer = Recorded(Stack())
    outer(x)
    assert torch.equal(inner(x), expected)
    assert torch.equal(outer(x), expected)


@pytest.mark.parametrize("recorded_before", [True, False])
def test_two_recordings_side_by_side_compute_what_each_does_alone(recorded_before: bool) -> None:
    one, other = Recorded(Stack()), Recorded(Stack())
    inputs = [normal(ROWS, WIDTH, seed=seed) for seed in range(4)]
    expected = [Stack()(x.clone()) for x in inputs]
    if recorded_before:
        one(inputs[3]), other(inputs[3])
    for first, second in ((0, 1), (2, 0), (1, 2)):
        found = one.beside(other, [inputs[first]], [inputs[second]])
        assert torch.equal(found[0], expected[first])
        assert torch.equal(found[1], expected[second])


def test_a_recording_that_failed_begins_again() -> None:
    class Failing(Stack):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            out = super().__call__(x)
            if self.runs == 1:
                raise KeyboardInterrupt
            return out

    recorded, x = Recorded(Failing()), normal(ROWS, WIDTH)
    with pytest.raises(KeyboardInterrupt):
        recorded(x)
    expected = Stack()(x.clone())
    assert torch.equal(recorded(x), expected)
    assert torch.equal(recorded(2 * x), Stack()(2 * x))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, WIDTH), r"input 0: expected contiguous \[70, 256\]"),
        (torch.zeros(ROWS, WIDTH).double(), "input 0: expected .*float32, got .*float64"),
    ],
)
def test_other_shapes_are_refused(x: torch.Tensor, message: str) -> None:
    recorded = Recorded(Stack())
    recorded(normal(ROWS, WIDTH))
    with pytest.raises(ValueError, match=message):
        recorded(x)
