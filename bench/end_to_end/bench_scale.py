"""What a large corpus costs beside its models: every command at three sizes, with rows made up.

python -m cdgen.bench.end_to_end.bench_scale --out bench/results/scale.json

Each phase is a process of its own, so that its memory is its own. The rows have 60 tokens; those of
a real corpus have more, which costs commits, finalize and verify in proportion. Times are CPU
seconds: on a busy machine the clock would measure the others.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.plan import Plan
from cdgen.corpus.prompts import PromptSource, prepare_prompts
from cdgen.corpus.ranges import commit_encoded, encode_range, pending_ranges
from cdgen.corpus.rows import Row
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import beat, status
from cdgen.corpus.verify import verify
from cdgen.generation.new_plan import default_range_size

SEQUENCES = (20_000, 200_000, 2_000_000)
PER_PROMPT = 8
WORKERS = 1000
PROMPT_TOKENS, NEW_TOKENS = 20, 40
SLOTS = 64  # of --slots auto on a CPU
WORDS = ["<unk>", *(f"word{number}" for number in range(1, 1000))]
_COUNTED = 10  # ranges, over which system calls are counted
_STARTED = 50  # of the workers; all leave a heartbeat
_TEXTS = 997  # different sequences


# ---- the corpus --------------------------------------------------------------------------------


def make_documents(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number in range(count):
            file.write(" ".join(WORDS[1 + (number * 7 + i) % 999] for i in range(40)) + "\n")


def open_corpus(out: Path) -> Plan:
    """Do what every worker does first: begin the corpus, or compare its prompts and plan."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = CorpusFolder(out)
    with folder.set_up():
        documents = str(out.parent / "prompts.txt")
        source = PromptSource(documents, tokenizer, "0" * 64, (), PROMPT_TOKENS)
        table = prepare_prompts(source, folder.prompts)
        sampling = {"good_weight": 1, "bad_weight": 1, "alpha": 0.1, "temperature": 1}
        plan = Plan.model_validate(
            {
                "cdgen_version": "0",
                "prompts": table.plan,
                "good_sha256": "0" * 64,
                "bad": "layers:2",
                "sampling": {**sampling, "top_k": 0, "top_p": 1, "min_p": 0},
                "strategy": "cd",
                "seed": 0,
                "sequences_per_prompt": PER_PROMPT,
                "num_sequences": PER_PROMPT * len(table),
                "max_new_tokens": NEW_TOKENS,
                "on_eos": "stop",
                "eos_token_ids": [0],
                "vocab_size": len(WORDS),
                "logprobs": False,
                "slots": SLOTS,
                "range_size": default_range_size("cpu", SLOTS, 400),
                "dtype": "float32",
                "device": "cpu",
                "decoder": "lean",
                "backend": "none",
            }
        )
        folder.open_plan(plan)
    return plan


def made_up_texts() -> list[tuple[list[int], str]]:
    count = PROMPT_TOKENS + NEW_TOKENS
    tokens = [[1 + (n * 13 + 7 * i * i) % 999 for i in range(count)] for n in range(_TEXTS)]
    return [(ids, " ".join(WORDS[token] for token in ids)) for ids in tokens]


def made_up_rows(plan: Plan, index: int, texts: list[tuple[list[int], str]]) -> Iterator[Row]:
    for sequence_id in plan.sequence_ids(index):
        tokens, text = texts[sequence_id % _TEXTS]
        yield Row(
            sequence_id=sequence_id,
            prompt_id=plan.prompt_id(sequence_id),
            text=text,
            tokens=tokens,
            prompt_tokens=PROMPT_TOKENS,
            new_tokens=NEW_TOKENS,
            finish_reason="length",
            mean_plausible=1 + sequence_id % 16 / 8,
            good_logprob=None,
        )


# ---- the phases, each called in a process of its own -------------------------------------------


def plan_phase(out: Path) -> dict[str, Any]:
    """Read and tokenize the prompts, and write the plan."""
    return {"ranges": open_corpus(out).num_ranges}


def commit_phase(out: Path, *, first: int = 0, ranges: int = -1) -> dict[str, Any]:
    """Commit `ranges` ranges from `first`; by default all but the last, so that one is missing."""
    folder = CorpusFolder(out)
    plan = folder.plan
    last = plan.num_ranges - 1 if ranges < 0 else first + ranges
    texts = made_up_texts()
    encoding = committing = 0.0
    for index in range(first, last):
        rows = list(made_up_rows(plan, index, texts))
        began = time.process_time()
        encoded = encode_range(plan, index, rows)
        middle = time.process_time()
        commit_encoded(folder, index, encoded)
        encoding += middle - began
        committing += time.process_time() - middle
    count = max(1, last - first)
    return {
        "encode_ms_per_range": round(1e3 * encoding / count, 2),
        "commit_ms_per_range": round(1e3 * committing / count, 2),
    }


def resume_phase(out: Path, shard: str = "0/1") -> dict[str, Any]:
    """Start a worker: compare prompts and plan, take the shard, find what is missing."""
    open_corpus(out)
    folder, own = CorpusFolder(out), Shard.parse(shard)
    with folder.hold_shard(own):
        missing = len(pending_ranges(folder, own))
        beat(folder, own, 0, 1, 1.0)
    return {"missing": missing}


def workers_phase(out: Path) -> dict[str, Any]:
    """Start `_STARTED` of `WORKERS` workers, one after the other; leave a heartbeat of each."""
    seconds = []
    for number in range(_STARTED):
        began = time.process_time()
        resume_phase(out, f"{number}/{WORKERS}")
        seconds.append(time.process_time() - began)
    folder = CorpusFolder(out)
    for number in range(WORKERS):
        beat(folder, Shard(number, WORKERS), number, 1, 1.0)
    return {"cpu_ms_per_worker": round(1e3 * sum(seconds) / len(seconds), 1)}


def status_phase(out: Path) -> dict[str, Any]:
    found = status(out)
    return {"ranges_done": found.ranges_done, "workers": len(found.workers)}


def finalize_phase(out: Path) -> dict[str, Any]:
    manifest = finalize(out)
    data = sum(entry.bytes for entry in manifest.files)
    size = CorpusFolder(out).manifest_file.stat().st_size
    return {"files": len(manifest.files), "manifest_bytes": size, "data_bytes": data}


def verify_phase(out: Path) -> dict[str, Any]:
    assert verify(out) == []
    return {}


PHASES: dict[str, Callable[..., dict[str, Any]]] = {
    "plan": plan_phase,
    "commit": commit_phase,
    "resume": resume_phase,
    "workers": workers_phase,
    "status": status_phase,
    "finalize": finalize_phase,
    "verify": verify_phase,
}


def run_phase(name: str, out: Path, numbers: list[int]) -> None:
    """Do a phase in this process and print what it took."""
    arguments = dict(zip(("first", "ranges"), numbers, strict=False))
    began, cpu = time.perf_counter(), time.process_time()
    found = PHASES[name](out, **arguments)
    spent, seconds = time.process_time() - cpu, time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured = {"cpu_seconds": round(spent, 2), "seconds": round(seconds, 2)}
    print(json.dumps({**measured, "peak_mib": round(peak), **found}))


# ---- the measurement ---------------------------------------------------------------------------


def phase(name: str, out: Path, *numbers: int, before: tuple[str, ...] = ()) -> dict[str, Any]:
    command = [sys.executable, "-m", "cdgen.bench.end_to_end.bench_scale", "--phase", name]
    ended = subprocess.run(
        [*before, *command, "--corpus", str(out), *map(str, numbers)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def calls(name: str, out: Path, *numbers: int) -> Counter[str]:
    """Count the system calls of a phase that touch the corpus folder."""
    log = out.parent / "strace.log"
    traced = "%file,fsync,ftruncate,getdents64,flock,fstat,fstatfs,write,read"
    strace = ("strace", "-f", "-y", "-qq", "-e", f"trace={traced}", "-o", str(log))
    phase(name, out, *numbers, before=strace)
    found = re.findall(rf"^\d+ +(\w+)\(.*{re.escape(str(out))}", log.read_text(), re.MULTILINE)
    log.unlink()
    return Counter(found)


def calls_per_range(out: Path) -> dict[str, float]:
    """Return the system calls of a commit on the corpus folder: the difference of two runs."""
    more, fewer = (calls("commit", out, 0, n) for n in (2 * _COUNTED, _COUNTED))
    return {name: round((more[name] - fewer[name]) / _COUNTED, 1) for name in sorted(more)}


def measure(sequences: int, scratch: Path) -> dict[str, Any]:
    out = scratch / "out"
    make_documents(scratch / "prompts.txt", sequences // PER_PROMPT)
    result: dict[str, Any] = {"sequences": sequences}

    def do(key: str, name: str, *numbers: int) -> None:
        result[key] = phase(name, out, *numbers)
        print(f"{sequences:,} {key}: {result[key]}", file=sys.stderr, flush=True)

    do("plan", "plan")
    if shutil.which("strace"):
        result["calls_per_range"] = calls_per_range(out)
    do("commit", "commit")
    do("resume", "resume")
    if shutil.which("strace"):
        result["calls_per_resume"] = dict(calls("resume", out))
    do("status", "status")
    do("workers", "workers")
    do("status_of_1000_workers", "status")
    phase("commit", out, result["plan"]["ranges"] - 1, 1)
    do("finalize", "finalize")
    do("verify", "verify")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sequences", type=int, nargs="*", default=SEQUENCES)
    parser.add_argument("--phase", choices=PHASES, help="one phase, as the measurement calls it")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("numbers", type=int, nargs="*")
    arguments = parser.parse_args()
    if arguments.phase:
        run_phase(arguments.phase, arguments.corpus, arguments.numbers)
        return
    sizes = []
    for sequences in arguments.sequences:
        with tempfile.TemporaryDirectory() as scratch:
            sizes.append(measure(sequences, Path(scratch)))
    from cdgen.bench.timing.environment import write_result  # brings torch, which no phase needs

    result = {"workers": WORKERS, "tokens_per_row": PROMPT_TOKENS + NEW_TOKENS, "sizes": sizes}
    write_result("scale", result, arguments.out)


if __name__ == "__main__":
    main()
