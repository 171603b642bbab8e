"""Tests of the choice of backend and instruction set: one that cannot run is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from triton import knobs

from cdgen.kernels.dispatch import NotBuilt, choose_backend, native, threads


def test_backend_follows_the_device_or_the_name() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_backend(cpu) == choose_backend(cpu, "cpu") == "cpu"
    assert choose_backend(cuda) == choose_backend(cuda, "triton") == "triton"
    assert choose_backend(cpu, "reference") == "reference"
    assert choose_backend(torch.device("meta"), "reference") == "reference"


def test_triton_runs_on_the_cpu_only_if_it_is_interpreted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(knobs.runtime, "interpret", True)
    assert choose_backend(torch.device("cpu"), "triton") == "triton"
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match="got device cpu; set TRITON_INTERPRET=1"):
        choose_backend(torch.device("cpu"), "triton")


@pytest.mark.parametrize(
    ("device", "backend", "message"),
    [
        ("meta", "cpu", "needs tensors on the CPU, got device meta"),
        ("meta", None, "expected tensors on cpu or cuda, got device meta"),
        ("cuda", "cpu", "needs tensors on the CPU, got device cuda"),
        ("cpu", "gpu", "expected one of .* got 'gpu'"),
        ("cpu", "", "expected one of .* got ''"),
    ],
)
def test_a_backend_that_cannot_run_is_refused(
    device: str, backend: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        choose_backend(torch.device(device), backend)


def test_instruction_set_is_switched_and_checked(instruction_set: str) -> None:
    assert native.instruction_set() == instruction_set
    with pytest.raises(ValueError, match=r"expected one of .*portable, .* got sse2"):
        native.set_instruction_set("sse2")
    assert native.instruction_set() == instruction_set


def test_threads_follow_torch() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert threads() == 1
    torch.set_num_threads(before)


def test_native_kernels_that_were_not_built_say_how_to_build_them() -> None:
    with pytest.raises(ImportError, match="pip install -e"):
        NotBuilt().sample_contrastive()


IMPORTS = """
import sys, torch
import cdgen.kernels.decode_attention, cdgen.kernels.sample_contrastive
import cdgen.kernels.rms_norm, cdgen.kernels.rotary_to_cache, cdgen.kernels.swiglu
assert "triton" not in sys.modules, "triton was imported before a GPU kernel was"

def asked(*args):
    raise AssertionError("a module asked about the GPU while it was imported")

for name in ("_lazy_init", "is_available", "device_count", "current_device",
             "get_device_capability", "get_device_properties"):
    setattr(torch.cuda, name, asked)
import cdgen.kernels.gpu.decode_attention, cdgen.kernels.gpu.sample_contrastive
import cdgen.kernels.gpu.rms_norm, cdgen.kernels.gpu.rotary_to_cache, cdgen.kernels.gpu.swiglu
"""


def test_imports_ask_no_gpu_and_only_gpu_kernels_import_triton() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
