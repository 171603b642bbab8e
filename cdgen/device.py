"""The device of a run and its number formats: what `auto` means, and what a plan records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdgen.errors import Interrupted, UsageError, is_gpu_failure, is_out_of_memory, one_line

FP8 = "float8_e4m3fn"


def choose_device(name: str) -> str:
    """Return the device type, cpu or cuda, that `--device` means here. Raises UsageError."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no CUDA device here")
    if name not in ("cpu", "cuda"):
        raise UsageError(f"--device: expected auto, cpu or cuda, got {name}")
    return name


def choose_dtypes(dtype: str, kv_dtype: str, device: str, lean: bool) -> tuple[str, str]:
    """Return torch's names for the dtypes of the weights and of the KV cache.

    `lean` says that the models run in our own decoder, not through transformers. Raises UsageError.
    """
    chosen = dtype if dtype != "auto" else "bfloat16" if device == "cuda" else "float32"
    if device == "cpu":
        _require_cpu_dtype(chosen, lean)
    if kv_dtype == "auto":
        return chosen, chosen
    if not lean:
        raise UsageError(
            f"--kv-dtype {kv_dtype}: expected auto for models that run through transformers"
        )
    if device == "cpu":
        from cdgen.kernels.arguments import CPU_CACHES, dtype_name

        caches = [dtype_name(cache) for cache in CPU_CACHES]
        if kv_dtype not in caches:
            expected = ", ".join(caches)
            raise UsageError(f"--kv-dtype {kv_dtype}: expected auto, {expected} on a CPU")
        return chosen, kv_dtype
    if kv_dtype != "fp8":
        raise UsageError(f"--kv-dtype {kv_dtype}: expected auto or fp8 on a GPU")
    import torch

    if torch.cuda.get_device_capability() < (8, 9):
        raise UsageError(f"--kv-dtype {kv_dtype}: needs a GPU of compute capability 8.9 or later")
    return chosen, FP8


def _require_cpu_dtype(dtype: str, lean: bool) -> None:
    """Raise UsageError unless a CPU is to compute in this dtype.

    Without an instruction for bf16 products, plain code takes many times as long as for fp32 ones.
    """
    if dtype == "float32":
        return
    if dtype != "bfloat16" or not lean:
        models = "" if lean else " for models that run through transformers"
        also = " or bfloat16" if lean else ""
        raise UsageError(f"--dtype {dtype}: expected auto, float32{also} on a CPU{models}")
    if not has_bf16_products():
        raise UsageError(
            "--dtype bfloat16: this processor has no bf16 products (AVX-512 BF16), and float32"
            " is faster; --kv-dtype bfloat16 or int8 makes the KV cache smaller"
        )


def has_bf16_products() -> bool:
    """Return whether this processor has the instruction that kernels/cpu/packed_linear.cpp takes
    for bf16."""
    import torch

    return torch.cpu._is_avx512_bf16_supported()


def device_kind(device: str, lean: bool) -> str:
    """Return what a plan records of the device: everything about it that changes how sums round.

    Matrix products round differently on another GPU model, and with transformers on another
    instruction set and perhaps with another number of threads. The lean decoder's do not on a CPU,
    but torch makes its tables of cosines, and may round them differently.
    """
    import torch

    if device == "cuda":
        return f"cuda {torch.cuda.get_device_name()}"
    kind = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return kind if lean else f"{kind}, {torch.get_num_threads()} threads"


def device_type(kind: str) -> str:
    """Return the device type, cpu or cuda, of a text that `device_kind` made."""
    return kind.split()[0]


def backend_name(device: str) -> str:
    """Return what a plan records of the kernels' build, which changes rounding too."""
    if device == "cuda":
        import triton

        return f"triton {triton.__version__}"
    from cdgen.kernels.dispatch import native

    # AVX-512 gives the bits of AVX2 (tests/kernels/test_instruction_sets.py), so a corpus may be
    # begun on one and resumed on the other.
    kernels = native.instruction_set()
    return f"cpu {'avx2' if kernels == 'avx512' else kernels}"


def free_bytes(device: str) -> int | None:
    """Return the memory that can be allocated now, on a CPU without swapping; None if unknown."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    memory = Path("/proc/meminfo")
    if not memory.exists():
        return None
    lines = dict(line.split(":") for line in memory.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


@contextmanager
def device_faults() -> Iterator[None]:
    """Turn the error of a device that failed or ran out of memory into Interrupted."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        no_memory = is_out_of_memory(error)
        if not (no_memory or isinstance(error, torch.AcceleratorError) or is_gpu_failure(error)):
            raise
        what = "out of memory" if no_memory else "the GPU failed"
        raise Interrupted(
            f"{what}: {one_line(error, 200)}; committed ranges are kept, the one in progress is"
            " not. Run the same command again to resume; if memory stays short, start another --out"
            " with fewer --slots."
        ) from error
