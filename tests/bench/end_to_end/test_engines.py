"""What the comparison of engines computes from their answers. No engine is installed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
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
from cdgen.bench.end_to_end.engine_models import byte_pairs_tokenizer
from cdgen.bench.end_to_end.engine_process import (
    Answer,
    EngineError,
    Run,
    ask_engine,
)
from cdgen.bench.end_to_end.gpu_generation_workload import paper_model
from cdgen.checkpoints.bad_source import parse_bad

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_rate_leaves_out_what_both_runs_have_in_common() -> None:
    """The runs take 10 s and half a second for each of the 4 sequences' tokens."""
    runs = [Run(10 + 0.5 * new, [[7] * new] * 4) for new in (48, 240)]
    assert steady_rate(Answer("1.0", "float32", [], runs)) == pytest.approx(4 / 0.5)


def test_a_long_run_that_took_less_time_is_no_rate() -> None:
    runs = [Run(2.0, [[7] * 48]), Run(1.9, [[7] * 240])]
    with pytest.raises(EngineError, match=r"long run took 1\.9 s, the short one 2\.0 s"):
        steady_rate(Answer("1.0", "float32", [], runs))


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
    assert parse_bad(bad_argument(kind, 12, 260, tmp_path)).kind == kind


@pytest.mark.parametrize("vocabulary", [300, 16384])
def test_tokenizer_has_every_id_and_reads_what_it_wrote(vocabulary: int) -> None:
    tokenizer: Tokenizer = byte_pairs_tokenizer(vocabulary)
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocabulary))
    text = "Hier geht es um BäumeKöpfe"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.thorough
def test_cdgen_is_measured_as_a_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_engines, "ROWS", 16)
    size = Size(lambda seed: paper_model(seed, "cpu", layers=2, width=64), (2, 6))
    workload = Workload(size, tmp_path)
    found = ask_engine("cdgen", workload.job(VANILLA))
    assert found.cache == "float32"
    assert found.greedy == workload.greedy
