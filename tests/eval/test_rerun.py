"""A repeated `cdgen eval` scores what is missing or has changed, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_files import TASKS, Run, change_weights, curve, document, scores_of

from cdgen.eval import run as run_module
from cdgen.eval.run import EvalConfig, evaluate
from cdgen.eval.scoring.scorer import Scorer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_again_computes_nothing(
    run: Run, llama: Path, other: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(llama, other).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def refuse(*_: Any) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(run_module, "Scorer", refuse)
    ended = run(llama, other)
    assert ended.code == 0 and "2 of 2 tasks scored before" in ended.err
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_moved_model_is_the_same_model(
    run: Run, llama: Path, copy_of: Callable[..., Path], scored: list[Any]
) -> None:
    run(llama)
    scored.clear()
    assert run(copy_of(llama, "moved")).code == 0
    assert scored == []


def test_a_further_task_is_added(run: Run, llama: Path, out: Path, scored: list[Any]) -> None:
    run(llama, tasks="blimp_fast")
    run(llama, tasks="ewok_fast")
    assert scored == [("llama", "blimp_fast"), ("llama", "ewok_fast")]
    assert {"blimp_fast", "ewok_fast"} <= set(document(out)["results"])
    assert [line["task"] for line in curve(out)] == ["blimp_fast", "ewok_fast"]


@pytest.mark.parametrize("part", ["weights", "config.json", "tokenizer.json"])
def test_a_changed_model_is_scored_again_and_alone(
    run: Run, llama: Path, other: Path, out: Path, scored: list[Any], part: str
) -> None:
    run(llama, other)
    scored.clear()
    before = scores_of(out / "other")
    if part == "weights":
        change_weights(other, "lm_head.weight", lambda w: w.mul_(2))
    elif part == "config.json":
        config = json.loads((other / part).read_text())
        (other / part).write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    else:
        text = (other / part).read_text()
        (other / part).write_text(
            text.replace('"add_prefix_space": false', '"add_prefix_space": true')
        )
    assert run(llama, other).code == 0
    assert scored == [("other", "blimp_fast"), ("other", "ewok_fast")]
    assert scores_of(out / "other") != before


def test_a_changed_line_of_data_scores_its_task_again(
    run: Run, llama: Path, out: Path, small_data: Path, scored: list[Any]
) -> None:
    run(llama)
    scored.clear()
    path = small_data / "blimp_fast/island.jsonl"
    path.write_text(path.read_text().replace("The cow sleeps", "The old cow sleeps"))
    before = document(out)["results"]["ewok_fast"]
    assert run(llama).code == 0
    assert scored == [("llama", "blimp_fast")]
    assert document(out)["results"]["ewok_fast"] == before


def test_a_renamed_file_of_data_scores_its_task_again(
    run: Run, llama: Path, out: Path, small_data: Path, scored: list[Any]
) -> None:
    """The sub-tasks of the supplement are its files."""
    run(llama, tasks="supplement_fast")
    scored.clear()
    path = small_data / "supplement_fast/answers.jsonl"
    path.rename(path.with_name("turns.jsonl"))
    assert run(llama, tasks="supplement_fast").code == 0
    assert scored == [("llama", "supplement_fast")]
    assert document(out)["group_subtasks"]["supplement_fast"] == ["supplement_fast_turns"]


def test_subtasks_that_are_gone_leave_the_results(
    run: Run, llama: Path, out: Path, small_data: Path
) -> None:
    run(llama)
    (small_data / "blimp_fast/island.jsonl").unlink()
    assert run(llama).code == 0
    found = document(out)
    assert "blimp_fast_island" not in found["results"]
    assert found["group_subtasks"]["blimp_fast"] == ["blimp_fast_agreement"]


def test_another_mode_scores_everything_again(
    run: Run, llama: Path, out: Path, scored: list[Any]
) -> None:
    run(llama)
    scored.clear()
    assert run(llama, compat="paper", tasks="blimp_fast").code == 0
    assert scored == [("llama", "blimp_fast")]
    assert document(out)["config"]["mode"] == "paper"
    assert "ewok_fast" not in document(out)["results"], "scores of two modes never stand together"


@pytest.mark.parametrize("damage", ["changed", "cut short", "missing"])
def test_predictions_that_are_not_those_of_the_score(
    run: Run, llama: Path, out: Path, scored: list[Any], damage: str
) -> None:
    run(llama)
    scored.clear()
    path = out / "predictions/ewok_fast.jsonl"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content.replace(b"-", b"-1", 1) if damage == "changed" else content[:-9])
    assert run(llama).code == 0
    assert scored == [("llama", "ewok_fast")]
    assert path.read_bytes() == content


def test_another_model_in_the_same_folder_leaves_nothing_of_the_first(
    run: Run, llama: Path, other: Path, out: Path
) -> None:
    """Two models called `good` come one after the other: neither scores nor predictions mix."""
    first = Path(shutil.copytree(llama, out.parent / "a/good"))
    second = Path(shutil.copytree(other, out.parent / "b/good"))
    run(first)
    assert run(second, tasks="ewok_fast").code == 0
    found = document(out)
    assert [task for task in found["results"] if task in TASKS.split(",")] == ["ewok_fast"]
    assert [line["task"] for line in curve(out)] == ["ewok_fast"]
    assert [path.name for path in (out / "predictions").iterdir()] == ["ewok_fast.jsonl"]
    collated = [path.parent.name for path in (out / "babylm2025").rglob("predictions.json")]
    assert collated == ["ewok_fast"], "a collation would hand in predictions of both"


def test_an_interrupted_run_keeps_the_tasks_it_finished(
    llama: Path, small_data: Path, out: Path, scored: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["blimp_fast", "comps", "ewok_fast"]
    config = EvalConfig(models=[llama], data=small_data, out=out, tasks=names)
    calls = []

    def interrupted(self: Scorer, *others: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return span_sums(self, *others)

    span_sums = Scorer.span_sums
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Scorer, "span_sums", interrupted)
        evaluate(config)
    assert list(document(out)["configs"]) == ["blimp_fast"]
    evaluate(config)
    assert [task for _, task in scored] == names
    assert list(document(out)["configs"]) == names
