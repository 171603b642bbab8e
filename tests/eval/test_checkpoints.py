"""Several checkpoints have names, steps and losses of their own, and share tokenized tasks."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from eval_files import Run, change_weights, curve, document, scores_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.eval import run as run_module
from cdgen.eval.checkpoints import find_checkpoints
from cdgen.eval.scoring.scorer import Scorer
from cdgen.eval.tasks import tokenized

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def training_run(llama: Path, tmp_path: Path) -> Path:
    """Write three checkpoints as `cdgen train` leaves them; step 9 was validated twice."""
    folder = tmp_path / "a run"
    for step in (9, 10, 100):
        copy = Path(shutil.copytree(llama, folder / f"checkpoints/checkpoint-{step}"))
        change_weights(copy, "lm_head.weight", partial(torch.Tensor.mul_, other=1 + step / 100))
    losses = [(9, 5.0), (9, 4.5), (10, 4.0), (100, 3.5)]
    lines = [{"step": step, "validation": {"all": loss, "wiki": 9.0}} for step, loss in losses]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_training_run_becomes_a_curve(run: Run, training_run: Path, out: Path) -> None:
    ended = run(training_run)
    assert ended.code == 0
    names = ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert sorted(path.parent.name for path in out.glob("*/results.json")) == sorted(names)
    assert not (out / "results.json").exists()
    lines = curve(out)
    assert [(line["model"], line["step"], line["validation_loss"]) for line in lines] == [
        (name, step, loss)
        for name, step, loss in zip(names, ("9", "10", "100"), ("4.5", "4.0", "3.5"), strict=True)
        for _ in range(2)
    ]
    assert [line["task"] for line in lines[:2]] == ["blimp_fast", "ewok_fast"]
    for line in lines:
        fields = document(out / line["model"])["results"][line["task"]]
        assert float(line["value"]) == fields[f"{line['metric']},none"]
        assert float(line["stderr"]) == fields[f"{line['metric']}_stderr,none"]
        assert [float(line["low"]), float(line["high"])] == fields["acc_ci95,none"]
    config = document(out / "checkpoint-10")["config"]
    assert (config["step"], config["validation_loss"]) == (10, 4.0)
    assert f"| task | metric | {' | '.join(names)} |" in ended.out


def test_steps_and_losses_of_trainers_own_state(run: Run, llama: Path, out: Path) -> None:
    parent = out.parent.parent / "hub"
    for name in ("chck_2M", "chck_1M", "chck_10M"):
        shutil.copytree(llama, parent / name)
    log = [{"step": 1_000_000, "loss": 9.0}, {"step": 1_000_000, "eval_loss": 2.5}]
    state = {"log_history": [*log, {"step": 500, "eval_loss": 7.0}]}
    (parent / "chck_1M/trainer_state.json").write_text(json.dumps(state))
    assert run(parent, tasks="blimp_fast").code == 0
    assert [(line["model"], line["step"], line["validation_loss"]) for line in curve(out)] == [
        ("chck_1M", "1000000", "2.5"),
        ("chck_2M", "2000000", ""),
        ("chck_10M", "10000000", ""),
    ]


def test_metrics_whose_last_line_was_cut_short(run: Run, training_run: Path, out: Path) -> None:
    """A kill in the middle of training cuts it; the other lines are whole."""
    path = training_run / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    ended = run(training_run, tasks="blimp_fast")
    assert ended.code == 0, ended.err
    assert [line["validation_loss"] for line in curve(out)] == ["4.5", "4.0", ""]


def test_tasks_are_tokenized_once_per_tokenizer(
    run: Run, llama: Path, other: Path, without_bos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    load_task = tokenized.load_task

    def counting(name: str, *others: Any) -> Any:
        asked.append(name)
        return load_task(name, *others)

    monkeypatch.setattr(tokenized, "load_task", counting)
    assert run(llama, other, without_bos).code == 0
    assert asked == ["blimp_fast", "ewok_fast"] * 2


def test_one_model_at_a_time_is_in_memory(
    run: Run,
    llama: Path,
    other: Path,
    broken: Path,
    copy_of: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A checkpoint that cannot be scored is released as well."""
    second = copy_of(broken, "broken-too")
    change_weights(second, "lm_head.weight", lambda w: w.neg_())
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Watched(Scorer):
        def __init__(self, *others: Any) -> None:
            nonlocal most
            super().__init__(*others)
            alive.append(weakref.ref(self.model))
            most = max(most, sum(model() is not None for model in alive))

    monkeypatch.setattr(run_module, "Scorer", Watched)
    gc.disable()  # a model holds cycles: no automatic collection may free it by chance
    request.addfinalizer(gc.enable)
    assert run(llama, other).code == 0
    assert (len(alive), most) == (2, 1)
    assert run(broken, second, llama, out=broken.parent / "elsewhere").code == 4
    assert (len(alive), most) == (5, 1)


def test_models_of_one_name_are_told_apart(run: Run, llama: Path, other: Path, out: Path) -> None:
    """Two experiments have a `good`; the folder a-good has the name that would join a and good."""
    base = other.parent / "models"
    first = Path(shutil.copytree(llama, base / "a/good"))
    second = Path(shutil.copytree(other, base / "b/good"))
    third = Path(shutil.copytree(other, base / "a-good"))
    change_weights(third, "lm_head.weight", lambda w: w.mul_(3))
    assert run(first, second, third, tasks="blimp_fast").code == 0
    folders = sorted(path.parent for path in out.glob("*/results.json"))
    assert len(folders) == 3
    assert len({str(scores_of(folder)) for folder in folders}) == 3
    assert len({document(folder)["config"]["model_sha256"] for folder in folders}) == 3
    assert len({line["model"] for line in curve(out)}) == 3


PARTS = st.lists(st.sampled_from(["a", "b", "a-b", "b-a", "a-b-a"]), min_size=1, max_size=3)
FOLDERS = PARTS.map(lambda parts: Path("/models", *parts))


@settings(max_examples=200, deadline=None)
@given(st.sets(FOLDERS, min_size=1, max_size=8))
def test_no_two_folders_share_a_name(folders: set[Path]) -> None:
    names = [named.name for named in find_checkpoints(sorted(folders))]
    assert len(set(names)) == len(names)
    assert not any("/" in name for name in names)


def test_a_training_run_that_has_grown(run: Run, training_run: Path, out: Path) -> None:
    """A lone checkpoint has its results in the folder itself; beside those of several, `cdgen
    compare` would take them for the run's."""
    later = [training_run / f"checkpoints/checkpoint-{step}" for step in (10, 100)]
    for folder in later:
        folder.rename(training_run / folder.name[-3:])
    assert run(training_run, tasks="blimp_fast").code == 0
    assert document(out)["config"]["step"] == 9
    for folder in later:
        (training_run / folder.name[-3:]).rename(folder)
    assert run(training_run, tasks="blimp_fast").code == 0
    assert len(curve(out)) == 3
    assert not (out / "results.json").exists()
    assert not (out / "predictions").exists() and not (out / "babylm2025").exists()


def test_more_folders_than_one_behind_a_flag(
    cdgen: Run, llama: Path, other: Path, small_data: Path, out: Path
) -> None:
    """The shell expands `--model runs/*` to this."""
    flags = ("--data", small_data, "--out", out, "--tasks", "blimp_fast")
    assert cdgen("eval", "--model", llama, other, *flags).code == 0
    assert [line["model"] for line in curve(out)] == ["llama", "other"]
