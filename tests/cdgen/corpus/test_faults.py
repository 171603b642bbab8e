"""Kills, failing system calls and several workers: the finished bytes are always the same.

The processes that are killed run this very file as a program (`serve`): it imports once, then forks
one child per job, so that a real SIGKILL and a restart together cost milliseconds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cdgen.corpus.finalize import finalize
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.plan import Plan, PromptPlan
from cdgen.corpus.prompts import PromptSource, prepare_prompts
from cdgen.corpus.ranges import commit_range, pending_ranges
from cdgen.corpus.rows import Row
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import beat, status
from cdgen.corpus.verify import verify
from cdgen.errors import CdgenError, StorageError
from cdgen.storage import CRASH_POINTS

RANGE_SIZE = 8
ROWS_PER_FILE = 16  # the first file has two ranges, the second one
SEQUENCES_PER_PROMPT = 4
PROMPTS = 6
RANGES = PROMPTS * SEQUENCES_PER_PROMPT // RANGE_SIZE
KILLED = -signal.SIGKILL
COMPLETE = 0
INCOMPLETE = StorageError.exit_code


# ---- the generator under test: everything of `cdgen generate` but the models -------------------


def make_plan(prompts: PromptPlan, rows_per_file: int, format: str) -> Plan:
    sampling = {"good_weight": 1, "bad_weight": 1, "alpha": 0.1, "temperature": 1}
    return Plan.model_validate(
        {
            "cdgen_version": "0.1.0",
            "format": format,
            "prompts": prompts,
            "good_sha256": "c" * 64,
            "bad": "none",
            "sampling": {**sampling, "top_k": 0, "top_p": 1, "min_p": 0},
            "strategy": "cd",
            "seed": 0,
            "sequences_per_prompt": SEQUENCES_PER_PROMPT,
            "num_sequences": SEQUENCES_PER_PROMPT * prompts.count,
            "max_new_tokens": 30,
            "on_eos": "stop",
            "eos_token_ids": [2],
            "vocab_size": 100,
            "logprobs": False,
            "slots": 16,
            "range_size": RANGE_SIZE,
            "rows_per_file": rows_per_file,
            "dtype": "float32",
            "device": "cpu",
            "decoder": "lean",
            "backend": "reference",
        }
    )


def make_row(plan: Plan, sequence_id: int, prompt: list[int]) -> Row:
    noise = random.Random(sequence_id)
    new = [noise.randrange(100) for _ in range(noise.randrange(1, 31))]
    return Row(
        sequence_id=sequence_id,
        prompt_id=plan.prompt_id(sequence_id),
        text=" ".join(map(str, prompt + new)),
        tokens=prompt + new,
        prompt_tokens=len(prompt),
        new_tokens=len(new),
        finish_reason="length",
        mean_plausible=noise.random(),
        good_logprob=None,
    )


def generate(
    out: Path,
    source: Path,
    shard: str = "0/1",
    seconds_per_row: float = 0,
    pause_until: str | None = None,  # after each range, wait for this file
    rows_per_file: int = ROWS_PER_FILE,
    format: str = "parquet",
    finish: bool = True,
) -> None:
    """Do what a worker does from start to end."""
    worker = Shard.parse(shard)
    with CorpusFolder(out).set_up():
        origin = PromptSource(str(source), make_tokenizer(), "0" * 64, (1,), 3)
        table = prepare_prompts(origin, CorpusFolder(out).prompts)
        plan = make_plan(table.plan, rows_per_file, format)
        CorpusFolder(out).open_plan(plan)
    with CorpusFolder(out).hold_shard(worker):
        for index in pending_ranges(CorpusFolder(out), worker):
            rows = []
            for sequence_id in plan.sequence_ids(index):
                rows.append(make_row(plan, sequence_id, table[plan.prompt_id(sequence_id)]))
                time.sleep(seconds_per_row)
            commit_range(CorpusFolder(out), index, rows)
            beat(CorpusFolder(out), worker, index, new_tokens=1, tokens_per_second=1.0)
            while pause_until and not Path(pause_until).exists():
                time.sleep(0.001)
    if finish:
        finalize(out)


def make_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "a": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def measure_memory(out: Path, source: Path, format: str) -> None:
    """Write the peaks of Python's and of Arrow's memory, in bytes, next to `out`."""
    import pyarrow as pa

    tracemalloc.start()
    generate(out, source, rows_per_file=200, format=format)
    assert verify(out) == []
    peaks = [tracemalloc.get_traced_memory()[1], pa.default_memory_pool().max_memory()]
    out.with_suffix(".peaks").write_text(json.dumps(peaks))


def generate_in_small_files(out: Path, source: Path, limit_bytes: int, format: str) -> None:
    """Generate while the kernel cuts every write at `limit_bytes` of file size."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, most))
    generate(out, source, format=format)


def finish(out: Path, source: Path) -> None:
    finalize(out)


JOBS: dict[str, Callable[..., None]] = {
    job.__name__: job for job in (generate, finish, measure_memory, generate_in_small_files)
}


def serve() -> None:
    """For each line of input, fork, kill the child if asked to, and answer with its exit code."""
    # A killed process loses nothing that it handed to the kernel: waiting for the disk, as a power
    # failure would require, changes no outcome here and takes most of the time.
    os.fsync = lambda descriptor: None
    with tempfile.TemporaryDirectory() as folder:  # every import happens before the first fork
        source = Path(folder) / "prompts.txt"
        source.write_text("a word\n")
        generate(Path(folder) / "out", source)
    print("ready", flush=True)
    for line in sys.stdin:
        kill_after, job = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(run_job(**job))
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still its own
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run_job(name: str, crash: str, out: str, source: str, arguments: dict[str, Any]) -> int:
    os.environ["CDGEN_CRASH_AT"] = crash
    try:
        JOBS[name](Path(out), Path(source), **arguments)
    except CdgenError as error:
        return error.exit_code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return COMPLETE


if __name__ == "__main__":
    serve()
    sys.exit()

# ---- the tests ---------------------------------------------------------------------------------

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import (  # noqa: E402
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from system_calls import Nth, fail, watching  # noqa: E402


class Workers:
    """Workers that run one at a time on corpora of one format."""

    def __init__(self, source: Path, format: str) -> None:
        self.source, self.format = source, format
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.server.stdout
        assert self.server.stdout.readline() == "ready\n"

    def close(self) -> None:
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.close()
        assert self.server.wait() == 0
        self.server.stdout.close()

    def start(
        self,
        name: str,
        out: Path,
        crash: str = "",
        kill_after: float | None = None,  # seconds
        **arguments: Any,
    ) -> None:
        job = {"name": name, "crash": crash, "out": str(out), "source": str(self.source)}
        if name != "finish":  # which follows the plan
            arguments["format"] = self.format
        assert self.server.stdin
        self.server.stdin.write(json.dumps([kill_after, {**job, "arguments": arguments}]) + "\n")
        self.server.stdin.flush()

    def wait(self) -> int:
        """Return the exit code of the last worker, or minus the signal that killed it."""
        assert self.server.stdout
        return int(self.server.stdout.readline())

    def run(self, *job: Any, **options: Any) -> int:
        self.start(*job, **options)
        return self.wait()


# The writes are the same ones, and the campaign of tests/torture takes both formats.
@pytest.fixture(
    scope="module", params=["parquet", pytest.param("jsonl", marks=pytest.mark.thorough)]
)
def workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    source = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    source.write_text("".join(f"a word {n}\n" for n in range(PROMPTS)))
    workers = Workers(source, request.param)
    yield workers
    workers.close()


Hashes = dict[str, str]


def range_file(out: Path, workers: Workers, index: int) -> Path:
    return out / ".cdgen" / "ranges" / f"range-{index:07}.{workers.format}"


def hashes(out: Path) -> Hashes:
    """Return the sha256 of every file except empty locks."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.suffix != ".lock")
    digest = hashlib.sha256
    return {str(path.relative_to(out)): digest(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def expected(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Hashes:
    """Return the corpus of an undisturbed run."""
    out = tmp_path_factory.mktemp("expected") / "out"
    assert workers.run("generate", out) == COMPLETE
    found = hashes(out)
    assert {name for name in found if not name.startswith(".cdgen/")} == {
        "README.md",
        "manifest.json",
        "prompts.jsonl",
        f"data/train-00000-of-00002.{workers.format}",
        f"data/train-00001-of-00002.{workers.format}",
    }
    assert {name for name in found if name.startswith(".cdgen/")} == {
        ".cdgen/plan.json",
        ".cdgen/prompts/origins.jsonl",
        ".cdgen/prompts/prompts.json",
        ".cdgen/prompts/tokens.bin",
    }
    return found


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_killed_at_every_point(
    workers: Workers, expected: Hashes, tmp_path: Path, point: str
) -> None:
    passing = committed = 0
    while True:
        passing += 1
        out = tmp_path / str(passing)
        code = workers.run("generate", out, f"{point}:{passing}")
        if code == COMPLETE:  # the point is passed fewer times than that
            break
        assert code == KILLED
        before, committed = committed, status(out).ranges_done if CorpusFolder(out).has_plan else 0
        assert committed >= before  # it died later than the last one: it has done as much
        assert workers.run("generate", out) == COMPLETE
        assert hashes(out) == expected, f"{point}:{passing}"
    assert passing > 2 * RANGES  # each lies on the way of at least the files of the ranges


def test_killed_at_random_times(workers: Workers, expected: Hashes, tmp_path: Path) -> None:
    began = time.monotonic()
    assert workers.run("generate", tmp_path / "whole", seconds_per_row=0.002) == COMPLETE
    whole = time.monotonic() - began
    noise = random.Random(0)
    kills = corpora = 0
    while kills < 10:
        out = tmp_path / str(corpora)
        after = noise.uniform(0, whole / 2)
        code = workers.run("generate", out, kill_after=after, seconds_per_row=0.002)
        assert code in (KILLED, COMPLETE)
        kills += code == KILLED
        if (out / "manifest.json").exists():
            assert workers.run("generate", out) == COMPLETE
            assert hashes(out) == expected
            corpora += 1
    assert workers.run("generate", out) == COMPLETE
    assert hashes(out) == expected


def test_a_kill_costs_at_most_one_range(workers: Workers, tmp_path: Path) -> None:
    out = tmp_path / "out"
    renames_of_set_up = 4  # two of the prompts, their record, plan.json; then three per range
    crash = f"after-rename:{renames_of_set_up + 2 * 3 + 1}"
    assert workers.run("generate", out, crash, finish=False) == KILLED
    assert status(out).ranges_done == 2
    assert range_file(
        out, workers, 2
    ).exists()  # renamed, but its entry is not there: not committed
    before = [range_file(out, workers, index).stat() for index in range(3)]
    assert workers.run("generate", out, finish=False) == COMPLETE
    after = [range_file(out, workers, index).stat() for index in range(3)]
    kept = [a.st_ino == b.st_ino for a, b in zip(before, after, strict=True)]
    assert kept == [True, True, False]


@pytest.mark.parametrize("order", [("0/2", "1/2"), ("2/3", "0/3", "1/3"), ("1/2", "0/1")])
def test_shards_in_any_order_make_the_same_files(
    workers: Workers, expected: Hashes, tmp_path: Path, order: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    for shard in order:
        assert not (out / "manifest.json").exists()
        assert workers.run("finish", out) != COMPLETE
        assert workers.run("generate", out, shard=shard, finish=False) == COMPLETE
    assert workers.run("finish", out) == COMPLETE
    assert hashes(out) == expected


def test_two_processes_of_one_shard(workers: Workers, expected: Hashes, tmp_path: Path) -> None:
    out, go_on = tmp_path / "out", tmp_path / "go-on"
    workers.start("generate", out, pause_until=str(go_on))
    while not range_file(out, workers, 0).exists():
        time.sleep(0.001)
    with pytest.raises(StorageError, match="another process is generating shard 0/1"):
        generate(out, workers.source, format=workers.format)
    go_on.touch()
    assert workers.wait() == COMPLETE
    assert hashes(out) == expected


def test_a_file_size_limit_of_the_kernel(
    workers: Workers, expected: Hashes, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert workers.run("generate_in_small_files", out, limit_bytes=3000) == INCOMPLETE
    assert not list(out.rglob(".*.tmp"))
    assert workers.run("generate", out) == COMPLETE
    assert hashes(out) == expected


# ---- failing system calls ----------------------------------------------------------------------


ERRORS = {
    "create": errno.EACCES,
    "write": errno.ENOSPC,
    "fsync": errno.EIO,
    "rename": errno.EDQUOT,
}


@pytest.mark.parametrize("kind", ERRORS)
def test_every_failing_call_is_reported_and_harmless(
    expected: Hashes, workers: Workers, tmp_path: Path, kind: str
) -> None:
    nth, code = 0, ERRORS[kind]
    while True:
        nth += 1
        out, failing = tmp_path / str(nth), Nth(kind, nth, fail(code))
        try:
            with watching(out, failing):
                generate(out, workers.source, format=workers.format)
        except StorageError as error:
            assert os.strerror(code) in str(error)
        else:
            break
        assert failing.left <= 0
        assert not list(tmp_path.rglob(".*.tmp"))
        committed = status(out).ranges_done if out.exists() else 0
        entries = list((out / ".cdgen" / "ranges").glob("*.json"))
        assert len(entries) in (committed, 0)  # none are left once the corpus is finalized
        generate(out, workers.source, format=workers.format)
        assert hashes(out) == expected, f"{kind}:{nth}"
    assert nth > 2 * RANGES


# ---- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["parquet", pytest.param("jsonl", marks=pytest.mark.thorough)])
def test_memory_does_not_grow_with_the_sequences(tmp_path: Path, format: str) -> None:
    peaks = []
    for prompts in (60, 600):
        source = tmp_path / f"{len(peaks)}.txt"
        source.write_text("a word\n" * prompts)
        workers = Workers(source, format)
        out = tmp_path / str(len(peaks))
        assert workers.run("measure_memory", out) == COMPLETE
        workers.close()
        peaks.append(json.loads(out.with_suffix(".peaks").read_text()))
    (python, arrow), (python_10x, arrow_10x) = peaks
    assert python_10x < python + 300_000  # all rows together have 3 MB
    assert arrow_10x <= 1.1 * arrow  # none where nothing is Parquet


# ---- any history -------------------------------------------------------------------------------


@pytest.mark.thorough
def test_any_history_of_workers_and_kills(
    workers: Workers, expected: Hashes, tmp_path: Path
) -> None:
    folders = iter(tmp_path / str(n) for n in range(10**6))
    crashes = st.builds("{}:{}".format, st.sampled_from(CRASH_POINTS), st.integers(1, 25))

    class History(RuleBasedStateMachine):
        """The events that may happen to an OUT, in any order; in the end it is completed and
        compared."""

        def __init__(self) -> None:
            super().__init__()
            self.out = next(folders)
            self.done = 0

        @rule(shard=st.sampled_from(["0/1", "0/2", "1/2", "2/3"]), crash=st.just("") | crashes)
        def work(self, shard: str, crash: str) -> None:
            code = workers.run("generate", self.out, crash, shard=shard, finish=False)
            assert code in (COMPLETE, KILLED)

        @precondition(lambda self: (self.out / ".cdgen" / "plan.json").exists())
        @rule(crash=st.just("") | crashes)
        def finish(self, crash: str) -> None:
            complete = status(self.out).ranges_done == RANGES
            code = workers.run("finish", self.out, crash)
            assert code in ((COMPLETE, KILLED) if complete else (INCOMPLETE, KILLED))

        @precondition(lambda self: (self.out / ".cdgen" / "plan.json").exists())
        @invariant()
        def nothing_committed_is_lost_or_damaged(self) -> None:
            now = status(self.out).ranges_done
            assert now >= self.done
            self.done = now
            problems = verify(self.out)
            missing = [f"{self.out} is incomplete: {RANGES - now} of {RANGES} ranges are missing."]
            assert problems == ([] if now == RANGES else missing)

        def teardown(self) -> None:
            assert workers.run("generate", self.out) == COMPLETE
            assert hashes(self.out) == expected

    chosen = settings(max_examples=12, stateful_step_count=8, deadline=None, derandomize=True)
    run_state_machine_as_test(History, settings=chosen)
