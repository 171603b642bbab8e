"""The record around every measurement: spread, machine, versions, commit and command."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cdgen.machine import gpu, installed, instruction_set, processor


def microseconds(
    samples: list[float],  # two or more, in seconds
) -> dict[str, float]:
    p20, _, _, p80 = statistics.quantiles(samples, n=5)
    median = statistics.median(samples)
    return {name: round(1e6 * s, 1) for name, s in (("p20", p20), ("p50", median), ("p80", p80))}


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Return the median ratio over the rounds in which both were timed."""
    return round(statistics.median(s / f for s, f in zip(slow, fast, strict=False)), 2)


def commit() -> str:
    """Return the short hash of HEAD, followed by + if the working tree differs from it."""

    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":/", ":!/bench/results")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "(no repository)"  # the files were copied without .git


def _program() -> str:
    """Return the dotted name of the module that runs as a program."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else Path(sys.argv[0]).stem


def _shortened(argument: str) -> str:
    """Return the name alone of an absolute path: results do not record where folders lie."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def environment() -> dict[str, Any]:
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "(unset)"),
        "kernels": instruction_set(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **({"gpu": gpu()} if torch.cuda.is_available() else {}),
        "versions": {
            "python": platform.python_version(),
            **{name: installed(name) for name in ("cdgen", "torch", "transformers", "numpy")},
        },
        "commit": commit(),
        "command": " ".join(["python", "-m", _program(), *map(_shortened, sys.argv[1:])]),
        "date": datetime.now(UTC).date().isoformat(),
    }


def as_json(name: str, result: dict[str, Any]) -> str:
    """Return a result and the environment in which it was measured."""
    return json.dumps({"benchmark": name, "environment": environment(), "result": result}, indent=2)


def save_result(name: str, result: dict[str, Any], out: Path | None) -> None:
    """Write the result and its environment to `out` if given."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(as_json(name, result) + "\n")


def write_result(name: str, result: dict[str, Any], out: Path | None) -> None:
    """Print the result and its environment, and write the same to `out` if given."""
    print(as_json(name, result))
    save_result(name, result, out)
