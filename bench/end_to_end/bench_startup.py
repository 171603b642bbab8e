"""Start-up times of whole processes: `cdgen --help`, and a run that writes one token.

python -m cdgen.bench.end_to_end.bench_startup --out bench/results/cpu-startup.json
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cdgen.bench.timing.environment import write_result
from cdgen.cli.demo import ASSETS


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def one_token(out: Path) -> list[str]:
    """Return the command for a corpus of one token: start-up, pair, prompts, one step, commit."""
    prompts = out.parent / "prompts.txt"
    prompts.write_text("Once upon a time\n")
    pair = ASSETS / "demo-pair"
    return [
        sys.executable,
        "-m",
        "cdgen",
        "generate",
        "--good",
        str(pair / "good"),
        "--bad",
        str(pair / "bad"),
        "--prompts",
        str(prompts),
        "--out",
        str(out),
        "--prompt-tokens",
        "2",
        "--num-sequences",
        "1",
        "--max-new-tokens",
        "1",
    ]


def measure(repeats: int) -> dict[str, Any]:
    help_command = [sys.executable, "-m", "cdgen", "--help"]
    seconds(help_command)  # warms the file cache
    helps = [seconds(help_command) for _ in range(repeats)]
    firsts = []
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(repeats + 1):
            folder = Path(scratch) / str(i)
            folder.mkdir()
            firsts.append(seconds(one_token(folder / "out")))
    return {
        "help_s": round(statistics.median(helps), 3),
        "first_token_run_s": round(statistics.median(firsts[1:]), 3),
        "help_all_s": [round(s, 3) for s in helps],
        "first_token_run_all_s": [round(s, 3) for s in firsts[1:]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    write_result("startup", measure(args.repeats), args.out)


if __name__ == "__main__":
    main()
