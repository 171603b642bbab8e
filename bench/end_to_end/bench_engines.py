"""cdgen beside the engines that a user would take instead, on a CPU.

    make bench-engines    # makes an environment for each engine first
    python -m cdgen.bench.end_to_end.bench_engines --out bench/results/cpu-engines.json

One GOOD (two sizes of random Llamas with scaled heads, as in bench_bad_kinds.py), 8 sequences of
each of 8 prompts, 20 prompt tokens, plain sampling: temperature 1, no truncation, end-of-text
ignored. cdgen also contrasts GOOD with every kind of BAD. Each engine runs in a process of an
environment of its own (engines/), and the processes take turns.

A rate is that of the steady state: the new tokens of a long run without those of a short one, over
the difference of their times, so that loading and prompts cancel. Before a rate counts, the tokens
are counted; greedy continuations are compared with those of transformers; and the drawn tokens are
compared with GOOD's own distribution. An engine that fails is reported with its reason and left out
of the later rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cdgen.bench.end_to_end.bench_bad_kinds import KINDS, bad_argument
from cdgen.bench.end_to_end.bench_generate import PROMPT, ROWS, random_llama, scale_heads
from cdgen.bench.end_to_end.engine_checks import greedy_tokens, leading_agreement, surprise
from cdgen.bench.end_to_end.engine_models import write_checkpoint, write_prompts
from cdgen.bench.end_to_end.engine_process import Answer, EngineError, ask_engine
from cdgen.bench.end_to_end.engines.worker import Job
from cdgen.bench.end_to_end.gpu_generation_workload import paper_model
from cdgen.bench.timing.environment import median_ratio, save_result, write_result

THREADS = 2


@dataclass(frozen=True)
class Contender:
    engine: str  # a module of engines/
    dtype: str = "float32"  # of weights and products
    cache: str = "float32"  # of the KV cache; default is what the engine takes if nothing is said
    bad: str = "none"  # a kind of BAD, for cdgen

    @property
    def name(self) -> str:
        kind = "" if self.bad == "none" else f", BAD {self.bad}"
        return f"{self.engine}, {self.dtype}, cache {self.cache}{kind}"


VANILLA = Contender("cdgen")
CONTENDERS = (
    *(Contender("cdgen", bad=kind) for kind in KINDS),
    *(Contender("cdgen", "float32", "int8", kind) for kind in ("none", "layers")),
    *(Contender("cdgen", "bfloat16", "bfloat16", kind) for kind in ("none", "layers")),
    *(Contender("cdgen", "bfloat16", "int8", kind) for kind in ("none", "layers")),
    Contender("vllm"),
    Contender("vllm", "bfloat16", "default"),
    Contender("openvino"),
    Contender("openvino", "float32", "default"),
    Contender("openvino", "bfloat16", "default"),
    Contender("openvino", "bfloat16", "int8"),
    Contender("ctranslate2"),
    Contender("ctranslate2", "bfloat16", "default"),
    Contender("llama_cpp"),
    Contender("llama_cpp", "float32", "default"),
    Contender("llama_cpp", "bfloat16", "default"),
    Contender("transformers"),
    Contender("transformers", "bfloat16", "default"),
)


@dataclass(frozen=True)
class Size:
    llama: Callable[[int], Any]  # from a seed
    lengths: tuple[int, int]  # new tokens of the short run and the long one


SIZES = {
    "256x6, V 16384": Size(random_llama, (48, 240)),
    "768x12, V 32000": Size(lambda seed: paper_model(seed, "cpu"), (16, 80)),
}


def steady_rate(answer: Answer) -> float:
    """Return the new tokens per second between the ends of the short run and the long one. Raises
    EngineError if the long run was not longer."""
    short, long = answer.runs
    seconds = long.seconds - short.seconds
    if seconds <= 0:
        raise EngineError(f"the long run took {long.seconds} s, the short one {short.seconds} s")
    return (sum(map(len, long.tokens)) - sum(map(len, short.tokens))) / seconds


@dataclass
class Measured:
    """The rounds of one contender."""

    facts: dict[str, Any]  # of its first round
    rates: list[float]  # tokens per second


def summaries(measured: dict[str, Measured]) -> dict[str, Any]:
    """Return the median and spread of every contender, and its ratio to vanilla in the same
    rounds."""
    found: dict[str, Any] = {}
    for name, one in measured.items():
        rates = [round(rate) for rate in one.rates]
        median = round(statistics.median(one.rates))
        found[name] = one.facts | {
            "tokens_per_s": median,
            "spread": [min(rates), max(rates)],
            "all": rates,
        }
        if VANILLA.name in measured:
            vanilla = measured[VANILLA.name].rates
            found[name]["of_cdgen_vanilla"] = median_ratio(one.rates, vanilla)
    return found


class Workload:
    """The models and prompts of one size, in a folder, and what transformers makes of them."""

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder
        self.good, bad = size.llama(0), size.llama(1)
        scale_heads(self.good, bad)
        write_checkpoint(self.good, folder / "good")
        write_checkpoint(bad, folder / "bad")
        (folder / "converted").mkdir()
        self.prompts = write_prompts(folder / "documents.txt", self.good.config.vocab_size, PROMPT)
        self.greedy = greedy_tokens(self.good, self.prompts)

    def job(self, contender: Contender) -> Job:
        layers, tokens = self.good.config.num_hidden_layers, PROMPT + min(self.size.lengths)
        return Job(
            good=str(self.folder / "good"),
            bad=bad_argument(contender.bad, layers, tokens, self.folder / "bad"),
            converted=str(self.folder / "converted"),
            prompts=[p for p in self.prompts for _ in range(ROWS // len(self.prompts))],
            documents=str(self.folder / "documents.txt"),
            lengths=list(self.size.lengths),
            dtype=contender.dtype,
            cache=contender.cache,
            threads=THREADS,
        )

    def measure(self, contender: Contender) -> tuple[dict[str, Any], float]:
        """Return what is known of a contender, and its rate in one process. Raises EngineError."""
        job = self.job(contender)
        answer = ask_engine(contender.engine, job)
        facts: dict[str, Any] = {"version": answer.version, "cache": answer.cache}
        if contender.bad == "none":
            facts["greedy_agreement"] = leading_agreement(answer.greedy, self.greedy)
            facts["surprise"] = surprise(self.good, job.prompts, answer.runs[-1].tokens)
        return facts, steady_rate(answer)


def measure_size(
    workload: Workload, contenders: Sequence[Contender], rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield the results so far after every process."""
    measured: dict[str, Measured] = {}
    skipped: dict[str, str] = {}
    for number in range(rounds):
        for contender in contenders:
            name = contender.name
            if name in skipped:
                continue
            try:
                facts, rate = workload.measure(contender)
            except EngineError as error:
                skipped[name] = str(error)
                print(f"{name}: skipped, {error}", flush=True)
            else:
                measured.setdefault(name, Measured(facts, [])).rates.append(rate)
                print(f"{name}: round {number + 1}, {rate:,.0f} tokens/s", flush=True)
            yield {
                "new_tokens": list(workload.size.lengths),
                "engines": summaries(measured),
                "skipped": dict(skipped),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    found: dict[str, Any] = {}
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as scratch:
            workload = Workload(size, Path(scratch))
            for found[name] in measure_size(workload, CONTENDERS, args.rounds):
                save_result("engines", found, args.out)
    write_result("engines", found, args.out)


if __name__ == "__main__":
    main()
