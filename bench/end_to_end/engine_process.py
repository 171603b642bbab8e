"""One engine in a process of its own: the job goes in, the answer comes out and is checked."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.bench.end_to_end.engines.worker import GREEDY_TOKENS, Job, distinct

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / "build" / "engines"
TIMEOUT = 900  # seconds of one process


class EngineError(RuntimeError):
    """An engine is absent, failed, or did not do what it was asked for."""


@dataclass(frozen=True)
class Run:
    seconds: float
    tokens: list[list[int]]  # new tokens of every sequence


@dataclass(frozen=True)
class Answer:
    version: str
    cache: str
    greedy: list[list[int]]  # of each distinct prompt
    runs: list[Run]  # one for each length of the job


def ask_engine(engine: str, job: Job) -> Answer:
    """Run a job in the environment of an engine. Raises EngineError."""
    environment = os.environ | {"OMP_NUM_THREADS": str(job.threads)}
    python = Path(sys.executable)
    if engine != "cdgen":
        python = ENVIRONMENTS / engine / "bin" / "python"
        # The workers' sources, as `make package` lays them out.
        environment["PYTHONPATH"] = str(ROOT / "build" / "package")
    if not python.exists():
        raise EngineError(f"{python.relative_to(ROOT)} is missing: make bench-engines installs it")
    command = [str(python), "-m", f"cdgen.bench.end_to_end.engines.{engine}"]
    return read_answer(run_worker(command, environment, job), job)


def run_worker(command: list[str], environment: dict[str, str], job: Job) -> str:
    """Return what a worker printed. Raises EngineError with its last words if it failed."""
    text = json.dumps(dataclasses.asdict(job))
    try:
        run = subprocess.run(
            command, input=text, env=environment, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"no answer within {TIMEOUT} s") from None
    if run.returncode:
        words = run.stderr.strip().splitlines() or ["nothing on standard error"]
        raise EngineError(f"exit code {run.returncode}: {words[-1][:300]}")
    return run.stdout


def read_answer(printed: str, job: Job) -> Answer:
    """Return the answer on the last line. Raises EngineError if it is none, or not one to the
    job."""
    last = (printed.strip().splitlines() or [""])[-1]
    try:
        found: dict[str, Any] = json.loads(last)
        runs = [Run(run["seconds"], run["tokens"]) for run in found["runs"]]
        answer = Answer(found["version"], found["cache"], found["greedy"], runs)
    except (ValueError, TypeError, KeyError):
        raise EngineError(f"expected an answer in JSON last, got {last[:80]!r}") from None
    _check_counts(answer.greedy, len(distinct(job.prompts)), GREEDY_TOKENS)
    if len(runs) != len(job.lengths):
        raise EngineError(f"expected {len(job.lengths)} runs, got {len(runs)}")
    for run, new in zip(runs, job.lengths, strict=True):
        _check_counts(run.tokens, len(job.prompts), new)
        texts = len(distinct(run.tokens))  # one for each distinct prompt if nothing was drawn
        if texts * 2 < len(run.tokens):
            raise EngineError(f"{len(run.tokens)} sequences are only {texts} different texts")
    return answer


def _check_counts(tokens: list[list[int]], rows: int, new: int) -> None:
    lengths = sorted({len(row) for row in tokens})
    if len(tokens) != rows or lengths != [new]:
        raise EngineError(
            f"expected {rows} sequences of {new} new tokens, got {len(tokens)} of {lengths}"
        )
