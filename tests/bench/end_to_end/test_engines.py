"""What the comparison of engines computes from their answers, and what it accepts as an answer. No
engine is installed: the workers are small programs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from cdgen.bench.end_to_end import bench_engines, engine_process
from cdgen.bench.end_to_end.bench_bad_kinds import KINDS, bad_argument
from cdgen.bench.end_to_end.bench_engines import (
    CONTENDERS,
    VANILLA,
    Contender,
    Size,
    Workload,
    measure_size,
    steady_rate,
)
from cdgen.bench.end_to_end.engine_checks import greedy_tokens, leading_agreement, surprise
from cdgen.bench.end_to_end.engine_models import byte_pairs_tokenizer
from cdgen.bench.end_to_end.engine_process import (
    Answer,
    EngineError,
    Run,
    ask_engine,
    read_answer,
    run_worker,
)
from cdgen.bench.end_to_end.engines.worker import GREEDY_TOKENS, Job, converted_once
from cdgen.bench.end_to_end.gpu_generation_workload import paper_model
from cdgen.checkpoints.bad_source import parse_bad

pytestmark = pytest.mark.usefixtures("one_thread")

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


def test_a_rate_leaves_out_what_both_runs_have_in_common() -> None:
    """The runs take 10 s and half a second for each of the 4 sequences' tokens."""
    runs = [Run(10 + 0.5 * new, [[7] * new] * 4) for new in (48, 240)]
    assert steady_rate(Answer("1.0", "float32", [], runs)) == pytest.approx(4 / 0.5)


def test_a_long_run_that_took_less_time_is_no_rate() -> None:
    runs = [Run(2.0, [[7] * 48]), Run(1.9, [[7] * 240])]
    with pytest.raises(EngineError, match=r"long run took 1\.9 s, the short one 2\.0 s"):
        steady_rate(Answer("1.0", "float32", [], runs))


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


class Scripted:
    """A workload whose engines answer as written."""

    size = SimpleNamespace(lengths=(2, 5))

    def __init__(self, rates: dict[str, list[float | str]]) -> None:
        self.rates = rates

    def measure(self, contender: Contender) -> tuple[dict[str, Any], float]:
        found = self.rates[contender.engine].pop(0)
        if isinstance(found, str):
            raise EngineError(found)
        return {"version": "1.0"}, found


def test_medians_ratios_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    peer, absent = Contender("vllm", "bfloat16", "default"), Contender("openvino")
    script = Scripted(
        {"cdgen": [100.0, 200.0, 400.0], "vllm": [50.0, 300.0, 200.0], "openvino": ["no python"]}
    )
    *_, found = measure_size(script, (VANILLA, absent, peer), rounds=3)  # type: ignore[arg-type]
    engines = found["engines"]
    assert engines["vllm, bfloat16, cache default"] == {
        "version": "1.0",
        "tokens_per_s": 200,
        "spread": [50, 300],
        "all": [50, 300, 200],
        "of_cdgen_vanilla": 0.5,  # the median of 0.5, 1.5 and 0.5: each in its own round
    }
    assert engines[VANILLA.name]["of_cdgen_vanilla"] == 1.0
    assert found["skipped"] == {absent.name: "no python"}
    assert f"{absent.name}: skipped, no python" in capsys.readouterr().out


def test_an_engine_that_fails_late_keeps_its_rounds_and_its_reason() -> None:
    script = Scripted({"cdgen": [100.0, 100.0], "vllm": [50.0, "out of memory"]})
    *_, found = measure_size(script, (VANILLA, Contender("vllm")), rounds=2)  # type: ignore[arg-type]
    assert found["engines"]["vllm, float32, cache float32"]["all"] == [50]
    assert found["skipped"] == {"vllm, float32, cache float32": "out of memory"}


def test_contenders_have_names_of_their_own_and_all_kinds_of_bad() -> None:
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)
    assert {c.bad for c in CONTENDERS if c.engine == "cdgen"} == set(KINDS)


def test_every_engine_has_a_worker_and_versions() -> None:
    folder = engine_process.ROOT / "bench" / "end_to_end" / "engines"
    workers = {path.stem for path in folder.glob("*.py")} - {"worker"}
    assert {contender.engine for contender in CONTENDERS} == workers
    assert {path.stem for path in folder.glob("*.txt")} == workers - {"cdgen"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_bad_has_an_argument(kind: str, tmp_path: Path) -> None:
    assert parse_bad(bad_argument(kind, 12, tmp_path)).kind == kind


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


@pytest.mark.parametrize("vocabulary", [300, 16384])
def test_tokenizer_has_every_id_and_reads_what_it_wrote(vocabulary: int) -> None:
    tokenizer: Tokenizer = byte_pairs_tokenizer(vocabulary)
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocabulary))
    text = "Hier geht es um BäumeKöpfe"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.fixture(scope="module")
def good() -> Any:
    model = paper_model(0, "cpu", layers=1, width=64)
    model.lm_head.weight.data *= 10
    return model


def draws(good: Any, prompts: list[list[int]], **settings: Any) -> list[list[int]]:
    torch.manual_seed(1)
    ids = torch.tensor(prompts)
    out = good.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=0,
        max_new_tokens=16,
        do_sample=True,
        **settings,
    )
    return out[:, ids.shape[1] :].tolist()


PROMPTS = [[i, i + 1, i + 2] for i in range(16)]


def test_draws_from_good_are_no_surprise(good: Any) -> None:
    assert abs(surprise(good, PROMPTS, draws(good, PROMPTS, top_k=0))) < 3


@pytest.mark.parametrize("settings", [{"top_k": 50}, {"top_k": 0, "temperature": 0.8}], ids=str)
def test_draws_from_another_distribution_are_found(good: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="not from GOOD's distribution"):
        surprise(good, PROMPTS, draws(good, PROMPTS, **settings))


def test_another_model_is_found_by_its_greedy_tokens(good: Any) -> None:
    expected = greedy_tokens(good, PROMPTS)
    assert leading_agreement(expected, expected) == GREEDY_TOKENS
    late = [row[:4] + [-1] * (GREEDY_TOKENS - 4) for row in expected]
    assert leading_agreement(late, expected) == 4
    other = greedy_tokens(paper_model(1, "cpu", layers=1, width=64), PROMPTS)
    with pytest.raises(EngineError, match="greedy tokens differ"):
        leading_agreement(other, expected)


def test_cdgen_is_measured_as_a_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_engines, "ROWS", 16)
    size = Size(lambda seed: paper_model(seed, "cpu", layers=2, width=64), (2, 6))
    workload = Workload(size, tmp_path)
    found = ask_engine("cdgen", workload.job(VANILLA))
    assert found.cache == "float32"
    assert found.greedy == workload.greedy
