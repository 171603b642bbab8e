"""`cdgen generate` as a process of its own, on a tiny pair and five short prompts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def starter(pair: Any, folder: Path, num_sequences: int) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts `cdgen generate` into a folder, with more flags if any, in
    ranges of 16; the prompts are written into `folder`."""
    prompts = folder / "prompts.txt"
    prompts.write_text("w3\nw10 w11\nw17 w18 w19\nw24 w25 w26 w27\nw31 w32 w33 w34 w35\n")
    flags = ["--good", pair.good, "--bad", pair.bad, "--prompts", prompts, "--prompt-tokens", 4]
    sizes = ["--num-sequences", num_sequences, "--max-new-tokens", 50, "--range-size", 16]
    command = [sys.executable, "-m", "cdgen", "generate", *map(str, [*flags, *sizes])]

    def start(out: Path, *more: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "--out", str(out), *map(str, more)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
