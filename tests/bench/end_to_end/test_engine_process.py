"""What is an answer of an engine, and what is an error of it. The workers are small programs."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cdgen.bench.end_to_end import engine_process
from cdgen.bench.end_to_end.engine_process import EngineError, ask_engine, read_answer, run_worker
from cdgen.bench.end_to_end.engines.worker import GREEDY_TOKENS, Job, converted_once

JOB = Job("good", "none", "", [[1, 2], [1, 2], [3, 4], [3, 4]], "", [2, 5], "float32", "default", 1)


def answer(**changes: Any) -> dict[str, Any]:
    """Return what a worker prints for JOB."""
    runs = [
        {"seconds": 1.0 + new, "tokens": [[row] * new for row in range(4)]} for new in JOB.lengths
    ]
    greedy = [[1] * GREEDY_TOKENS] * 2
    return {"version": "1.0", "cache": "float16", "greedy": greedy, "runs": runs} | changes


def printed(**changes: Any) -> str:
    return f"loading ...\n{json.dumps(answer(**changes))}\n"


def test_an_answer_is_the_last_line() -> None:
    found = read_answer(printed(), JOB)
    assert (found.version, found.cache) == ("1.0", "float16")
    assert [(run.seconds, len(run.tokens[0])) for run in found.runs] == [(3.0, 2), (6.0, 5)]


@pytest.mark.parametrize("text", ["", "done\n", "[1]", '"a"', "{}", '{"runs": 3}', "null"])
def test_rubbish_is_no_answer(text: str) -> None:
    with pytest.raises(EngineError, match="expected an answer in JSON last, got"):
        read_answer(text, JOB)


def test_tokens_are_counted() -> None:
    short = answer()
    short["runs"][1]["tokens"][2].pop()
    with pytest.raises(EngineError, match=r"4 sequences of 5 new tokens, got 4 of \[4, 5\]"):
        read_answer(json.dumps(short), JOB)
    fewer = answer()
    fewer["runs"][0]["tokens"].pop()
    with pytest.raises(EngineError, match=r"4 sequences of 2 new tokens, got 3 of \[2\]"):
        read_answer(json.dumps(fewer), JOB)
    with pytest.raises(EngineError, match="expected 2 runs, got 1"):
        read_answer(printed(runs=answer()["runs"][:1]), JOB)
    with pytest.raises(EngineError, match="2 sequences of 32 new tokens, got 0"):
        read_answer(printed(greedy=[]), JOB)


def test_one_text_for_all_sequences_is_an_error() -> None:
    same = [{"seconds": 1.0, "tokens": [[7] * new] * 4} for new in JOB.lengths]
    with pytest.raises(EngineError, match="4 sequences are only 1 different texts"):
        read_answer(printed(runs=same), JOB)


def test_what_an_engine_prints_is_no_part_of_its_answer() -> None:
    program = """
from cdgen.bench.end_to_end.engines.worker import Engine, work
count = 0
def generate(prompts, new, greedy):
    global count
    count += 1
    print("generating", flush=True)
    return [[0 if greedy else count, row, *[7] * (new - 2)] for row, _ in enumerate(prompts)]
work(lambda job: Engine("1.0", job.cache, generate))
print("good-bye")
"""
    found = read_answer(run_worker([sys.executable, "-c", program], dict(os.environ), JOB), JOB)
    assert found.greedy == [[0, row, *[7] * (GREEDY_TOKENS - 2)] for row in range(2)]
    # The second call is the long run that is not timed.
    assert [run.tokens[1][:2] for run in found.runs] == [[3, 1], [4, 1]]


def test_a_worker_that_fails_is_named_by_its_last_words() -> None:
    program = "import sys; sys.exit('Traceback\\nno such dtype')"
    with pytest.raises(EngineError, match="exit code 1: no such dtype"):
        run_worker([sys.executable, "-c", program], dict(os.environ), JOB)


def test_what_cdgen_refuses_is_its_reason() -> None:
    with pytest.raises(EngineError, match=r"exit code 1: .*float7"):
        ask_engine("cdgen", dataclasses.replace(JOB, cache="float7"))


def test_a_worker_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "TIMEOUT", 0.1)
    program = "import time; time.sleep(60)"
    with pytest.raises(EngineError, match=r"no answer within 0\.1 s"):
        run_worker([sys.executable, "-c", program], dict(os.environ), JOB)


def test_an_engine_without_environment_is_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engine_process, "ROOT", tmp_path)
    monkeypatch.setattr(engine_process, "ENVIRONMENTS", tmp_path / "engines")
    with pytest.raises(EngineError, match="engines/vllm/bin/python is missing"):
        ask_engine("vllm", JOB)


def test_a_conversion_that_was_interrupted_is_made_again(tmp_path: Path) -> None:
    job = Job("", "", str(tmp_path), [], "", [], "", "", 1)

    def fail(out: Path) -> None:
        out.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted_once(job, "model", fail)
    made = converted_once(job, "model", lambda out: out.write_text("whole"))
    assert converted_once(job, "model", fail) == made
    assert made.read_text() == "whole"
