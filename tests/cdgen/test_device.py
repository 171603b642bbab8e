"""What the errors of a device mean."""

from __future__ import annotations

import pytest
import torch

from cdgen.device import backend_name
from cdgen.errors import is_out_of_memory


def _failed_capture(cause: RuntimeError) -> RuntimeError:
    """Return the error of a graph capture that cannot end, because of `cause`."""
    try:
        try:
            raise cause
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error")
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (_failed_capture(torch.OutOfMemoryError("CUDA out of memory")), True),
        (_failed_capture(RuntimeError("CUDA error: misaligned address")), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (MemoryError("Unable to allocate 1. EiB for an array"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_out_of_memory_is_seen_behind_the_error_of_a_capture(
    error: Exception, expected: bool
) -> None:
    assert is_out_of_memory(error) is expected


def test_a_plan_knows_kernels_by_their_bits(instruction_set: str) -> None:
    """AVX-512's are those of AVX2: a corpus may change between such machines."""
    named = {"avx512": "cpu avx2", "avx2": "cpu avx2", "portable": "cpu portable"}
    assert backend_name("cpu") == named[instruction_set]
