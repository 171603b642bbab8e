"""Bad data, flags and models are named, and do not stop the others."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from eval_files import TASKS, Run, change_weights, curve, document
from transformers import AutoTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- the data ------------------------------------------------------------------------------------


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


def test_a_malformed_line_stops_its_task_alone(
    run: Run, llama: Path, other: Path, out: Path, small_data: Path
) -> None:
    path = small_data / "blimp_fast/agreement.jsonl"
    append(path, '{"sentence_good": "Half')
    ended = run(llama, other)
    assert ended.code == 2, ended
    (line,) = [line for line in ended.err.splitlines() if line.startswith("cdgen: ")]
    assert f"{path}, line 7: " in line
    for name in ("llama", "other"):
        assert "ewok_fast" in document(out / name)["results"]
        assert "blimp_fast" not in document(out / name)["results"]
    assert "| ewok_fast | acc |" in ended.out and "blimp_fast" not in ended.out


def test_a_line_that_became_malformed_takes_the_old_score_along(
    run: Run, llama: Path, out: Path, small_data: Path
) -> None:
    """That was the score of other data; beside new scores it would pass for one of the new data."""
    run(llama)
    append(small_data / "blimp_fast/agreement.jsonl", "[]")
    ended = run(llama)
    assert ended.code == 2
    assert "blimp_fast" not in document(out)["results"]
    assert "blimp_fast" not in ended.out


def test_a_malformed_reading_file_and_perplexity_text(
    run: Run, llama: Path, small_data: Path, out: Path
) -> None:
    (small_data / "reading").mkdir()
    (small_data / "reading/reading_data.csv").write_text("item,word\nThe,cat\n")
    (small_data / "perplexity/more.jsonl").write_text('{"text": 5}\n')
    ended = run(llama, tasks="reading,perplexity,ewok_fast")
    assert ended.code == 2
    assert "reading_data.csv, line 2" in ended.err
    assert "more.jsonl, line 1" in ended.err
    assert list(document(out)["configs"]) == ["ewok_fast"]


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_scores_that_cannot_be_computed_are_never_zero(
    run: Run, llama: Path, small_data: Path, out: Path, write_jsonl: Callable[..., None]
) -> None:
    """One is a correlation with people who all said the same, one the perplexity of a single
    document."""
    rows = [{"sentences": f"a {i}\tb {i}", "ratio": 0.5} for i in range(5)]
    write_jsonl(small_data / "wug_past_tense/wug_past_tense.jsonl", rows)
    (small_data / "perplexity/text.txt").write_text("A single document of some words.\n")
    ended = run(llama, tasks="wug_past_tense,perplexity,ewok_fast")
    assert "ewok_fast" in document(out)["results"]
    assert "wug_past_tense" not in document(out)["results"]
    assert "cdgen: wug_past_tense: " in ended.err
    assert ended.code == 2
    for inside in ("strata", "statistic"):
        assert inside not in ended.err, "the message must speak of the data, not of the code"


def test_folders_without_items(run: Run, llama: Path, small_data: Path) -> None:
    for task in ("perplexity", "comps", "reading"):
        shutil.rmtree(small_data / task, ignore_errors=True)
        (small_data / task).mkdir()
    ended = run(llama, tasks="perplexity,comps,reading,ewok_fast")
    assert ended.code == 2
    for task in ("perplexity", "comps", "reading"):
        (line,) = [x for x in ended.err.splitlines() if x.startswith(f"cdgen: {task}: ")]
        assert str(small_data / task) in line
    assert "--prompts" not in ended.err, "this command has no such flag"


@pytest.mark.parametrize("name", ["ewok_full", "reading", "perplexity2"])
def test_a_task_without_data_or_that_nobody_knows(
    run: Run, llama: Path, out: Path, small_data: Path, name: str
) -> None:
    ended = run(llama, tasks=f"{TASKS},{name}")
    if name == "perplexity2":
        assert ended.code == 2 and name in ended.err and "blimp*" in ended.err
        assert not out.exists()
        return
    assert ended.code == 0
    assert f"skipped {name}: {small_data / name} is not there" in ended.out
    assert name not in document(out)["results"] and f"| {name} |" not in ended.out
    assert len(curve(out)) == 2


def test_folders_that_are_passed_over_are_named(
    run: Run, llama: Path, out: Path, tmp_path: Path, small_data: Path
) -> None:
    data = tmp_path / "mine"
    shutil.copytree(small_data / "ewok_fast", data / "ewok_fast")
    for name in ("blim_fast", "glue_filtered", ".cache"):
        (data / name).mkdir()
    ended = run(llama, data=data, tasks=None)
    assert ended.code == 0
    assert [line for line in ended.out.splitlines() if line.startswith("skipped")] == [
        "skipped blim_fast: no task has a folder of this name",
        "skipped glue_filtered: fine-tuned only if --tasks names it",
    ]


@pytest.mark.parametrize("tasks", [None, "blimp_fast"])
def test_a_folder_on_the_wrong_level(
    run: Run, llama: Path, out: Path, tmp_path: Path, tasks: str | None
) -> None:
    data = tmp_path / "evaluation_data"
    for name in ("full_eval/blimp_filtered", "fast_eval/blimp_fast", "other/pictures"):
        (data / name).mkdir(parents=True)
    ended = run(llama, data=data, tasks=tasks)
    wanted = f"did you mean --data {data}/fast_eval or --data {data}/full_eval?"
    assert ended.code == 2 and wanted in ended.err
    ended = run(llama, data=data / "full_eval/blimp_filtered", tasks=None)
    assert ended.code == 2 and f"did you mean --data {data}/full_eval?" in ended.err


def test_nothing_to_score_at_all(run: Run, llama: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty/pictures").mkdir(parents=True)
    for flags in (
        {"data": tmp_path / "empty", "tasks": None},
        {"data": tmp_path / "empty"},
        {"data": tmp_path / "nowhere", "tasks": None},
        {"data": tmp_path / "nowhere"},
    ):
        ended = run(llama, **flags)
        assert ended.code == 2 and str(flags["data"]) in ended.err
        assert len(ended.err.splitlines()) == 1 and ended.out == ""
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"compat": "babylm2024"}, "'default', 'babylm2025' or 'paper'"),
        ({"device": "tpu"}, "'auto', 'cpu' or 'cuda'"),
        ({"device": "cuda"}, "no CUDA device"),
        ({"data": None}, "--data"),
        ({"out": None}, "--out"),
    ],
)
def test_flags_that_make_no_sense(
    run: Run, llama: Path, out: Path, monkeypatch: pytest.MonkeyPatch, flags: Any, says: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = run(llama, **flags)
    assert ended.code == 2 and says in ended.err, ended
    assert ended.err.startswith("cdgen: ") and len(ended.err.splitlines()) == 1
    assert not out.exists()


# ---- the models ----------------------------------------------------------------------------------


def test_a_checkpoint_with_nan_weights_is_invalid(
    run: Run, llama: Path, broken: Path, out: Path
) -> None:
    """It is not scored by ties, and the other checkpoints are scored."""
    for _ in range(2):  # a second call gives no score either
        ended = run(broken, llama)
        assert ended.code == 4, ended
        assert "broken" in ended.err and "NaN" in ended.err
        assert set(document(out / "llama")["configs"]) == {"blimp_fast", "ewok_fast"}
        assert document(out / "broken")["results"] == {}
        assert "NaN" in document(out / "broken")["config"]["invalid"]
        assert list((out / "broken/predictions").iterdir()) == []
        assert {line["model"] for line in curve(out)} == {"llama"}


def test_nan_that_only_one_task_meets(
    run: Run, llama: Path, copy_of: Callable[..., Path], out: Path, small_data: Path
) -> None:
    """A token of the second task is broken, and so the checkpoint: the first task's score is
    dropped too."""
    tokenizer = AutoTokenizer.from_pretrained(llama)
    ids = {
        task: set(tokenizer("\n".join(p.read_text() for p in (small_data / task).iterdir()))[0].ids)
        for task in TASKS.split(",")
    }
    (token,) = tokenizer(" large", add_special_tokens=False)["input_ids"]
    assert token in ids["ewok_fast"] - ids["blimp_fast"]
    folder = copy_of(llama, "broken")
    change_weights(folder, "model.embed_tokens.weight", lambda w: w[token].fill_(math.nan))
    ended = run(folder)
    assert ended.code == 4 and "NaN" in ended.err
    assert document(out)["results"] == {}
    assert curve(out) == []


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json", "model.safetensors", "all"])
def test_a_checkpoint_that_is_not_whole(
    run: Run, llama: Path, other: Path, out: Path, missing: str
) -> None:
    if missing == "all":
        shutil.rmtree(other)
    else:
        (other / missing).unlink()
    ended = run(other, llama)
    assert ended.code == 4, ended
    (line,) = [line for line in ended.err.splitlines() if line.startswith("cdgen: ")]
    assert str(other) in line
    if missing == "tokenizer.json":
        assert "has no tokenizer.json" in line and "save_pretrained" in line
    if missing != "config.json":  # such a folder may as well be a misspelt training run
        assert set(document(out / "llama")["configs"]) == {"blimp_fast", "ewok_fast"}


def test_the_same_folder_twice(run: Run, llama: Path, out: Path) -> None:
    ended = run(llama, llama / "../llama")
    assert ended.code == 2 and "given more than once" in ended.err
    assert not out.exists()
