"""Fixtures and markers that more than one folder of tests uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# As the command line does, before torch loads its OpenMP runtime: threads that spin while they wait
# made small eager ops fifty times slower where another process held a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

# Where there is no GPU, the tests of the Triton kernels run them in Triton's interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what reads the data folder `data`; skips `gpu` tests on a machine without CUDA."""
    for item in items:
        if "data_folder" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The development data beside the checkout: models, text and evaluation sets."""
    if not DATA.is_dir():
        pytest.skip(f"no development data at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def device() -> str:
    """Where Triton kernels run in these tests: compiled on a GPU, else interpreted on the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `torch.empty` and its kin return is NaN, -77 or 177, so that reading it before it was
    written, or returning it, shows."""

    def poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def allocate_poisoned(*args: object, **kwargs: object) -> torch.Tensor:
            out = allocate(*args, **kwargs)
            if out.is_floating_point():
                return out.fill_(float("nan"))
            return out.fill_(-77 if out.dtype.is_signed else 177)

        return allocate_poisoned

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


@pytest.fixture(params=["avx2", "portable"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once with each build of the native kernels; avx2 where the processor has it."""
    from cdgen.kernels.dispatch import native

    before = native.instruction_set()
    try:
        native.set_instruction_set(request.param)
    except ValueError:
        pytest.skip(f"this processor cannot run {request.param}")
    yield request.param
    native.set_instruction_set(before)


@pytest.fixture
def one_and_two_threads() -> Iterator[Callable[[Callable[[], Any]], tuple[Any, Any]]]:
    """Calls a function with one thread, then with two; restores the setting. Give it inputs of
    2**17 numbers or more: kernels leave small work to one thread."""
    before = torch.get_num_threads()

    def twice(call: Callable[[], Any]) -> tuple[Any, Any]:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(call())
        return results[0], results[1]

    yield twice
    torch.set_num_threads(before)
