"""What every worker of bench_engines.py does: load one engine, show what it runs, time two lengths.

A worker is a process of an environment of its own, which has the engine but not cdgen's
requirements: these files import the standard library and the engine only. The job comes as JSON on
standard input; the answer is all that comes on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GREEDY_TOKENS = 32


@dataclass(frozen=True)
class Job:
    good: str  # Hugging Face folder of GOOD
    bad: str  # cdgen's --bad; the other engines run GOOD alone
    converted: str  # folder for the engine's own copy of GOOD, shared by all its jobs
    prompts: list[list[int]]  # token ids [B][P]
    documents: str  # file of the texts that begin with the prompts, for cdgen
    lengths: list[int]  # new tokens of a sequence: the short run, the long run
    dtype: str  # of the weights and products: float32 or bfloat16
    cache: str  # of the KV cache: a dtype, or default for the engine's choice
    threads: int  # OMP_NUM_THREADS says the same


@dataclass(frozen=True)
class Engine:
    version: str
    cache: str  # the dtype of the KV cache
    # generate(prompts, new, greedy) returns `new` tokens for each prompt, without the prompt
    generate: Callable[[list[list[int]], int, bool], list[list[int]]]


def distinct(prompts: list[list[int]]) -> list[list[int]]:
    return [list(prompt) for prompt in dict.fromkeys(map(tuple, prompts))]


def converted_once(job: Job, name: str, convert: Callable[[Path], object]) -> Path:
    """Return the engine's own copy of GOOD, made by the first job that needs it."""
    path = Path(job.converted) / name
    if not path.exists():
        unfinished = path.with_name(f"unfinished-{name}")
        convert(unfinished)
        unfinished.rename(path)
    return path


def cache_as_weights(job: Job) -> str:
    """Return the dtype of the cache of an engine that keeps it in that of the weights. Raises
    ValueError if the job asks for another."""
    if job.cache not in (job.dtype, "default"):
        raise ValueError(f"the cache has the weights' dtype {job.dtype}; {job.cache} was asked for")
    return job.dtype


def work(load: Callable[[Job], Engine]) -> None:
    """Do the job on standard input. The first long run is not timed: in it an engine may still
    allocate or compile."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines write on standard output too
    job = Job(**json.load(sys.stdin))
    engine = load(job)
    greedy = engine.generate(distinct(job.prompts), GREEDY_TOKENS, True)
    engine.generate(job.prompts, job.lengths[-1], False)
    runs = []
    for new in job.lengths:
        start = time.perf_counter()
        tokens = engine.generate(job.prompts, new, False)
        runs.append({"seconds": time.perf_counter() - start, "tokens": tokens})
    answer = {"version": engine.version, "cache": engine.cache, "greedy": greedy, "runs": runs}
    print(json.dumps(answer), file=answers, flush=True)
