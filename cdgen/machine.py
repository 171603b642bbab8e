"""The machine that cdgen runs on: processor, GPU, memory, disk, and the versions installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cdgen.device import free_bytes

# The instructions that decide which code runs, in the native kernels or in PyTorch.
_FLAGS = (
    *("fma", "f16c", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve", "bf16", "i8mm"),
)
# The variables that change what runs, or on how many threads.
_VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES"),
    *("TRITON_INTERPRET", "CDGEN_CRASH_AT"),
)


def installed(package: str) -> str:
    """Return the installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _cpuinfo(*names: str) -> str:
    """Return the value of the first line of /proc/cpuinfo that has one of these names, or ""."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def processor_flags() -> list[str]:
    """Return those of `_FLAGS` that the processor has."""
    found = _cpuinfo("flags", "Features").split()
    return [flag for flag in _FLAGS if flag in found]


def instruction_set() -> str:
    """Return the instruction set that the native kernels chose."""
    from cdgen.kernels.dispatch import native

    try:
        return str(native.instruction_set())
    except ImportError:
        return "(not built)"


def gpu() -> dict[str, Any]:
    """Describe the GPU that device "cuda" means."""
    import torch

    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        run = subprocess.run(query, capture_output=True, text=True, check=True)
        driver = run.stdout.split()[0]  # one line per GPU, of one driver
    except (FileNotFoundError, subprocess.CalledProcessError):
        driver = "(unknown)"
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "l2_bytes": found.L2_cache_size,
        "driver": driver,
        "cuda": torch.version.cuda,
        "versions": {name: installed(name) for name in ("triton", "flashinfer-python")},
    }


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> dict[str, int | None]:
    """Return the bytes of the machine's memory: all, and those that can be allocated now."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"total_bytes": total, "free_bytes": free_bytes("cpu")}


def disk(folder: Path) -> dict[str, Any]:
    """Return the kind of the file system that holds `folder`, and its bytes."""
    usage = shutil.disk_usage(folder)
    kind = _file_system(folder.resolve())
    return {"file_system": kind, "total_bytes": usage.total, "free_bytes": usage.free}


def _file_system(folder: Path) -> str:
    """Return the kind of the mount that is nearest above `folder`."""
    mounts = Path("/proc/mounts")
    lines = mounts.read_text().splitlines() if mounts.exists() else []
    kinds = {line.split()[1]: line.split()[2] for line in lines}
    above = (str(place) for place in (folder, *folder.parents))
    return next((kinds[place] for place in above if place in kinds), "(unknown)")


def environment_variables() -> dict[str, str]:
    """Return the variables that are set and change what runs."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}
