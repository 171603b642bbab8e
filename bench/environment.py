"""What a measurement must carry to mean something: machine, versions, commit, command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cdgen.kernels.dispatch import native


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def commit() -> str:
    """HEAD, with a + where the working tree differs from it."""

    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    changed = git("status", "--porcelain", "--", ":/", ":!/bench/results")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def environment() -> dict[str, Any]:
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "(unset)"),
        "kernels": native.instruction_set(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("cdgen", "torch", "transformers", "numpy")},
        },
        "commit": commit(),
        "command": " ".join(
            ["python", "-m", f"cdgen.bench.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
        ),
        "date": datetime.now(UTC).date().isoformat(),
    }


def write_result(name: str, result: dict[str, Any], out: Path | None) -> None:
    """Prints the result and, where asked, writes it with its environment as JSON."""
    document = {"benchmark": name, "environment": environment(), "result": result}
    text = json.dumps(document, indent=2)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
