"""Checkpoints that a resume may trust, and those at word milestones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from toy_run import RECIPE, write_toy
from transformers import AutoModelForCausalLM, AutoTokenizer

from cdgen.errors import ModelError, StorageError, UsageError
from cdgen.train import loop
from cdgen.train.checkpoints import (
    MARKER,
    last_complete,
    mark_complete,
    milestone_steps,
    require_whole,
)
from cdgen.train.config import Recipe
from cdgen.train.data.training_data import build_training_data
from cdgen.train.loop import train_recipe
from cdgen.train.metrics import METRICS, append_metrics
from cdgen.train.trainer import RunTrainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 27 steps that counts a quarter of a million words for each."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "words_read", lambda *_: lambda steps: 250_000 * steps)
        train_recipe(write_toy(folder), folder, folder / "run")
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of files and folders in the order in which they are made durable."""
    names: list[str] = []

    def note(descriptor: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "fsync", note)
    return names


def test_a_checkpoint_is_durable_before_it_counts(synced: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-9"
    folder.mkdir()
    (folder / "weights").touch()
    mark_complete(folder, {})
    assert synced == ["weights", folder.name, f".{MARKER}.tmp", folder.name, tmp_path.name]


def test_what_a_killed_run_left_in_a_checkpoint_is_no_part_of_it(tmp_path: Path) -> None:
    for name in ("weights", f".{MARKER}.tmp", ".tmp4XyZ"):
        (tmp_path / name).touch()
    mark_complete(tmp_path, {})
    assert require_whole(tmp_path)["bytes"] == {"weights": 0}
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, "weights"]


def test_losses_are_durable_before_their_checkpoint(synced: list[str], tmp_path: Path) -> None:
    """A pair is chosen by those of checkpoints before a power failure, too."""
    for step in (9, 18):
        append_metrics(tmp_path / METRICS, {"step": step})
    assert synced == [METRICS, tmp_path.name, METRICS]


def test_every_checkpoint_is_complete_and_loads_in_plain_transformers(finished: Path) -> None:
    checkpoints = finished / "run/checkpoints"
    milestones = [f"chck_{n}M" for n in range(1, 7)]
    assert {path.name for path in checkpoints.iterdir()} == {
        "checkpoint-9",
        "checkpoint-18",
        "checkpoint-27",
        *milestones,
    }
    expected = build_training_data(Recipe.model_validate(RECIPE), finished).tokenizer
    for folder in checkpoints.iterdir():
        assert (folder / "model.safetensors").is_file()
        step = json.loads((folder / MARKER).read_text())["step"]
        name = folder.name
        assert name in (f"checkpoint-{step}", f"chck_{step / 4:.0f}M")
        assert AutoTokenizer.from_pretrained(folder)("a cat").input_ids == (
            expected.encode("a cat").ids
        )
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_milestone_has_its_words_and_losses_and_generates_with_a_cache(finished: Path) -> None:
    folder = finished / "run/checkpoints/chck_2M"
    facts = json.loads((folder / MARKER).read_text())
    assert (facts["step"], facts["words"]) == (8, 2_000_000)
    assert 0 < facts["validation"]["all"] < np.log(300)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.use_cache and model.dtype == torch.float32
    # Not among the losses of checkpoints, of which a pair is chosen.
    lines = map(json.loads, (finished / "run/metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "validation" in line] == [9, 18, 27]


def test_a_folder_without_its_marker_is_skipped(
    finished: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = run / "checkpoints"
    weights = checkpoints / "checkpoint-27/model.safetensors"
    before = weights.read_bytes()
    for step in (18, 27):
        (checkpoints / f"checkpoint-{step}" / MARKER).unlink()
    weights.write_bytes(before[:100])  # cut off, as a kill leaves it
    shutil.rmtree(checkpoints / "chck_6M")
    (checkpoints / ".chck_6M.partial").mkdir()
    last, skipped = last_complete(checkpoints)
    assert last == checkpoints / "checkpoint-9"
    assert skipped == [checkpoints / "checkpoint-27", checkpoints / "checkpoint-18"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "words_read", lambda *_: lambda steps: 250_000 * steps)
        train_recipe(finished / "recipe.yaml", finished, run)
    said = capsys.readouterr().err
    assert "checkpoint-27: never finished (complete.json is missing), skipped" in said
    assert weights.read_bytes() == before
    assert {p.name for p in checkpoints.iterdir()} == {
        p.name for p in (finished / "run/checkpoints").iterdir()
    }


@pytest.mark.parametrize(
    ("file", "harm", "says"),
    [
        ("model.safetensors", "cut", r"checkpoint-18/model\.safetensors: 100 bytes, \d+ when"),
        ("optimizer.pt", "removed", r"checkpoint-18/optimizer\.pt: none bytes, \d+ when"),
        (MARKER, "[]", r"checkpoint-18/complete\.json must hold a JSON object"),
        (MARKER, '{"bytes": []}', r"checkpoint-18/complete\.json is damaged"),
    ],
)
def test_a_checkpoint_that_was_damaged_later_is_named(
    finished: Path, run: Path, file: str, harm: str, says: str
) -> None:
    """A resume names it before training, and so does the export of a finished run."""
    path = run / "checkpoints/checkpoint-18" / file
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if harm == "cut" else harm.encode())
    with pytest.raises(ModelError, match=says):
        require_whole(path.parent)
    shutil.rmtree(run / "checkpoints/checkpoint-27")
    with pytest.raises(ModelError, match=says):
        train_recipe(finished / "recipe.yaml", finished, run)


def test_a_checkpoint_of_the_pair_that_was_deleted_is_named(finished: Path, run: Path) -> None:
    step = json.loads((run / "pair/bad" / MARKER).read_text())["step"]
    shutil.rmtree(run / f"checkpoints/checkpoint-{step}")
    with pytest.raises(ModelError, match=f"checkpoint-{step}: no {MARKER}, so it was deleted"):
        train_recipe(finished / "recipe.yaml", finished, run)


def test_the_marker_of_an_exported_model_is_its_last_file(finished: Path) -> None:
    for role in ("good", "bad"):
        folder = finished / "run/pair" / role
        assert {"step", "words", "bytes"} == require_whole(folder).keys()
        files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert max(files, key=lambda path: files[path]).name == MARKER


FULL_DISK = """
import resource, sys
from cdgen.train.__main__ import main
from cdgen.cli.app import execute
from cdgen.train.trainer import RunTrainer

save, limit = RunTrainer._save_checkpoint, int(sys.argv.pop())

def full(self, *args):
    if self.state.global_step == 18:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    save(self, *args)

RunTrainer._save_checkpoint = full
execute(main)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("limit", [10_000, 30_000])  # of the weights; of the optimizer
def test_a_run_that_a_full_disk_stopped_can_be_resumed(
    finished: Path, tmp_path: Path, limit: int
) -> None:
    """No file may grow beyond the limit: the kernel refuses as if the disk were full."""
    run = tmp_path / "run"
    paths = ["--config", finished / "recipe.yaml", "--data", finished, "--out", run]
    command = [sys.executable, "-c", FULL_DISK, *paths, str(limit)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == StorageError.exit_code, ended.stderr
    assert "The checkpoints before are kept" in ended.stderr
    train_recipe(finished / "recipe.yaml", finished, run)
    for role in ("good", "bad"):
        weights = Path("pair", role, "model.safetensors")
        assert (run / weights).read_bytes() == (finished / "run" / weights).read_bytes()


def test_a_resume_does_not_warn_about_a_tied_head(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr("transformers.trainer.logger.warning", warned.append)
    shutil.rmtree(run / "checkpoints/checkpoint-27")
    train_recipe(finished / "recipe.yaml", finished, run)
    assert warned == []


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert last_complete(tmp_path) == (None, [])


@pytest.mark.parametrize("what", ["loss", "validation loss"])
def test_a_loss_that_is_not_finite_stops_the_run(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It happens at step 12 in training, and at step 18 in validation, before the weights are
    saved."""
    checkpoints = run / "checkpoints"
    for step in (18, 27):
        shutil.rmtree(checkpoints / f"checkpoint-{step}")
    if what == "loss":
        compute = RunTrainer.compute_loss

        def broken(self: RunTrainer, *args: Any, **kwargs: Any) -> Any:
            factor = float("nan") if self.state.global_step == 11 else 1.0
            return compute(self, *args, **kwargs) * factor

        monkeypatch.setattr(RunTrainer, "compute_loss", broken)
    else:
        losses = {"toys": float("inf"), "all": float("inf")}
        monkeypatch.setattr("cdgen.train.callbacks.validation_losses", lambda *_: losses)
    step = 12 if what == "loss" else 18
    with pytest.raises(ModelError, match=f"step {step}: the {what} is (nan|inf).*learning_rate"):
        train_recipe(finished / "recipe.yaml", finished, run)
    assert last_complete(checkpoints) == (checkpoints / "checkpoint-9", [])
    metrics = (run / "metrics.jsonl").read_text()
    assert "NaN" not in metrics and "Infinity" not in metrics


def test_a_resume_completes_metrics_that_a_kill_cut_short(finished: Path, run: Path) -> None:
    (run / "checkpoints/checkpoint-27" / MARKER).unlink()
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-30])
    train_recipe(finished / "recipe.yaml", finished, run)

    def timeless(path: Path) -> list[dict[str, Any]]:
        lines = map(json.loads, path.read_text().splitlines())
        return [
            {k: v for k, v in line.items() if k not in ("tokens_per_second", "eta_seconds")}
            for line in lines
        ]

    # Each step once, as if it had never been interrupted.
    assert timeless(metrics) == timeless(finished / "run/metrics.jsonl")


def test_milestones_are_those_of_babylm() -> None:
    due = milestone_steps(lambda steps: 1_000_000 * steps, 350)
    assert [step for step in due if step <= 100] == [*range(1, 10), *range(10, 101, 10)]
    assert [step for step in due if step > 100] == [200, 300]
    assert due[200] == ["chck_200M"]
    # The first step that has them: 0.3 x 3 = 0.9 M is not enough, 0.3 x 4 is; a long step has two.
    assert milestone_steps(lambda steps: 300_000 * steps, 7) == {4: ["chck_1M"], 7: ["chck_2M"]}
    assert milestone_steps(lambda steps: 2_500_000 * steps, 1) == {1: ["chck_1M", "chck_2M"]}


def test_a_recipe_with_tensorboard_needs_the_package(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "find_spec", lambda _: None)
    recipe = tmp_path / "recipe.yaml"
    training = {**RECIPE["training"], "tensorboard": True}
    recipe.write_text(yaml.safe_dump({**RECIPE, "training": training}))
    with pytest.raises(UsageError, match="pip install tensorboard"):
        train_recipe(recipe, finished, tmp_path / "run")
    assert not (tmp_path / "run").exists()
