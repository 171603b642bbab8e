"""Fixtures and markers that more than one folder of tests uses."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Set before torch loads its OpenMP runtime. Threads that spin while they wait made small eager ops
# fifty times slower when another process held a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Set before NumPy is loaded: its matrix products are all small in these tests.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch

# A killed process loses nothing that the kernel has taken, so waiting for the disk changes no test.
# The campaign of tests/torture, in processes of its own, tries what a power failure would lose.
os.fsync = lambda fd: None

# Without a GPU, the tests run the Triton kernels in Triton's interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
if os.environ.get("TRITON_INTERPRET") == "1":
    from faster_interpreter import search_once

    search_once()

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough", action="store_true", help="run the tests marked `thorough` as well"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that read the data folder `data`; skip `gpu` tests on a machine without CUDA, and
    leave `thorough` ones out unless --thorough is given.

    Where AVX-512 is tested, AVX2 is thorough: kernels/test_instruction_sets.py holds every kernel
    to the same bits on both.
    """
    if not config.getoption("--thorough"):
        narrower = {"avx2"} if _widest_instruction_set() == "avx512" else set()
        left_out = [
            item
            for item in items
            if item.get_closest_marker("thorough") or _instruction_set_of(item) in narrower
        ]
        config.hook.pytest_deselected(items=left_out)
        dropped = {*left_out}
        items[:] = [item for item in items if item not in dropped]
    for item in items:
        if "data_folder" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="module")
def _only_new_objects_are_searched() -> None:
    """Leave what lives before the tests of a file out of garbage collection.

    torch, transformers and the collected tests are millions of objects, and `cdgen eval` collects
    after each model.
    """
    gc.collect()
    gc.freeze()


def _widest_instruction_set() -> str | None:
    from cdgen.kernels.dispatch import native

    try:
        return str(native.instruction_set())
    except ImportError:  # a machine with a GPU does without native kernels
        return None


def _instruction_set_of(item: pytest.Item) -> str | None:
    call = getattr(item, "callspec", None)
    return call.params.get("instruction_set") if call else None


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the development data beside the checkout: models, text and evaluation sets."""
    if not DATA.is_dir():
        pytest.skip(f"no development data at {DATA}")
    return DATA


@dataclass(frozen=True)
class Finished:
    """The exit code of a command and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def stories260k(data_folder: Path) -> SimpleNamespace:
    """Return the folders of the trained pair in the development data, `good` and `bad`."""
    folder = data_folder / "models/stories260k"
    return SimpleNamespace(good=folder / "good", bad=folder / "bad")


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads of torch and the kernels until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(set_threads: Callable[[int], None]) -> None:
    """Use one thread: a second one only slows models this small, most of all on a busy machine."""
    set_threads(1)


@pytest.fixture(scope="session")
def save_random() -> Callable[..., Path]:
    """Save a transformers model of a config with every parameter drawn at random."""
    from tiny_pair import save_random

    return save_random


@pytest.fixture
def cdgen(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Run the `cdgen` command with the given arguments through its real entry point."""

    def run(*arguments: object) -> Finished:
        from cdgen.cli import app

        monkeypatch.setattr(sys, "argv", ["cdgen", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Finished(ended.value.code, out, err)

    return run


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of files as `write_atomic` finishes them, in this order."""
    names, replace = [], os.replace

    def replace_and_note(source: Path, target: Path) -> None:
        replace(source, target)
        names.append(target.name)

    monkeypatch.setattr(os, "replace", replace_and_note)
    return names


@pytest.fixture(scope="session")
def device() -> str:
    """Return where the Triton kernels run: compiled on a GPU, otherwise interpreted on the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what `torch.empty`, `empty_like` and `empty_strided` return with NaN, -77 or 177.

    A kernel that reads or returns memory that it never wrote then fails its test.
    """

    def poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def allocate_poisoned(*args: object, **kwargs: object) -> torch.Tensor:
            out = allocate(*args, **kwargs)
            if out.is_floating_point():
                return out.fill_(float("nan"))
            return out.fill_(-77 if out.dtype.is_signed else 177)

        return allocate_poisoned

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


@pytest.fixture(params=["avx512", "avx2", "portable"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test with each build of the native kernels; skip those that the processor lacks."""
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
    """Call a function with one thread, then with two, and return both results.

    Give it inputs of 2**17 numbers or more: kernels leave smaller work to one thread.
    """
    before = torch.get_num_threads()

    def twice(call: Callable[[], Any]) -> tuple[Any, Any]:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(call())
        return results[0], results[1]

    yield twice
    torch.set_num_threads(before)
