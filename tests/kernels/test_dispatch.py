"""A backend or an instruction set that cannot run is refused; nothing falls back."""

from __future__ import annotations

import pytest
import torch

from cdgen.kernels.dispatch import choose_backend, native, threads


def test_backend_follows_the_device_or_the_name() -> None:
    cpu = torch.device("cpu")
    assert choose_backend(cpu) == choose_backend(cpu, "cpu") == "cpu"
    assert choose_backend(cpu, "reference") == "reference"
    assert choose_backend(torch.device("meta"), "reference") == "reference"


@pytest.mark.parametrize(
    ("device", "backend", "message"),
    [
        ("meta", "cpu", "needs tensors on the CPU, got device meta"),
        ("cpu", "gpu", "expected one of .* got 'gpu'"),
        ("cpu", "", "expected one of .* got ''"),
    ],
)
def test_a_backend_that_cannot_run_is_refused(device: str, backend: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_backend(torch.device(device), backend)


def test_instruction_set_is_switched_and_checked(instruction_set: str) -> None:
    assert native.instruction_set() == instruction_set
    with pytest.raises(ValueError, match="expected 'portable' or"):
        native.set_instruction_set("sse2")
    assert native.instruction_set() == instruction_set


def test_threads_are_those_of_torch() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert threads() == 1
    torch.set_num_threads(before)
