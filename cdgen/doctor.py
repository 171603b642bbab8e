"""What a bug report needs: the machine, the versions, and a self-test of every kernel."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cdgen import machine
from cdgen.device import has_bf16_products

PACKAGES = (
    *("cdgen", "torch", "triton", "transformers", "tokenizers", "safetensors", "numpy"),
    *("pyarrow", "datasets", "pydantic", "typer", "rich"),
)


def examine(folder: Path) -> dict[str, Any]:
    """Return all facts in JSON types; `problems` are those that keep cdgen from working right.

    `folder` is where the disk is looked at. Takes some seconds.
    """
    import torch

    from cdgen.kernels.self_test import self_test

    tested = self_test()
    facts: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            **{name: machine.installed(name) for name in PACKAGES},
        },
        "system": platform.platform(),
        "processor": {
            "name": machine.processor(),
            "flags": machine.processor_flags(),
            "cores": machine.usable_cores(),
            "threads": torch.get_num_threads(),
            "native_kernels": machine.instruction_set(),
            "torch": torch.backends.cpu.get_cpu_capability(),
            "bf16_products": "AVX512_BF16" if has_bf16_products() else None,
        },
        "gpu": machine.gpu() if torch.cuda.is_available() else None,
        "memory": machine.memory(),
        "disk": machine.disk(folder),
        "environment": machine.environment_variables(),
        "kernels": [asdict(outcome) for outcome in tested],
    }
    return facts | {"problems": _problems(facts)}


def _problems(facts: dict[str, Any]) -> list[str]:
    kernels = facts["kernels"]
    found = [
        f"{one['op']} on backend {one['backend']} differs from its reference ({one['reason']})"
        for one in kernels
        if one["result"] == "differs"
    ]
    if not any(one["result"] == "ok" for one in kernels):
        found.append("no kernel can run here: build the native ones (pip install -e .)")
    return found


def lines(facts: dict[str, Any]) -> list[str]:
    """Return the facts as lines of text."""
    cpu, gpu, memory, disk = (facts[name] for name in ("processor", "gpu", "memory", "disk"))
    variables = " ".join(f"{name}={value}" for name, value in facts["environment"].items())
    return [
        "  ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        f"system     {facts['system']}",
        f"processor  {cpu['name']}, {cpu['cores']} cores, {cpu['threads']} threads",
        f"flags      {' '.join(cpu['flags'])}",
        f"kernels    native: {cpu['native_kernels']}; torch: {cpu['torch']};"
        f" bf16 products: {cpu['bf16_products'] or 'none'}",
        f"GPU        {_gpu_line(gpu) if gpu else 'none'}",
        f"memory     {_gb(memory['free_bytes'])} free of {_gb(memory['total_bytes'])}",
        f"disk       {_gb(disk['free_bytes'])} free of {_gb(disk['total_bytes'])}"
        f" ({disk['file_system']}) in the current folder",
        f"variables  {variables or 'none of those that matter'}",
        *(
            f"{one['backend']:<7}{one['op']:<30}{one['result']}"
            f"{': ' if one['reason'] else ''}{one['reason']}"
            for one in facts["kernels"]
        ),
    ]


def _gpu_line(gpu: dict[str, Any]) -> str:
    return (
        f"{gpu['name']}, compute capability {gpu['capability']}, {_gb(gpu['memory_bytes'])},"
        f" driver {gpu['driver']}, CUDA {gpu['cuda']}"
    )


def _gb(count: int | None) -> str:
    return "(unknown)" if count is None else f"{count / 1e9:,.1f} GB"
