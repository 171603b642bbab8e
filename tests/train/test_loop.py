"""A whole run on a toy corpus: train, interrupt, resume, choose the pair, export, reload."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from toy_run import RECIPE, write_toy
from transformers import AutoModelForCausalLM, AutoTokenizer

from cdgen.errors import PlanMismatch, UsageError
from cdgen.train import loop
from cdgen.train.config import Recipe
from cdgen.train.data.training_data import build_training_data
from cdgen.train.loop import train_recipe
from cdgen.train.validation import validation_losses


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the recipe, its data and a finished run in run/."""
    folder = tmp_path_factory.mktemp("toy")
    train_recipe(write_toy(folder), folder, folder / "run")
    return folder


def metrics(run: Path) -> dict[int, float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {e["step"]: e["validation"]["all"] for e in lines if "validation" in e}


def test_the_loss_falls_and_every_checkpoint_has_one(finished: Path) -> None:
    losses = metrics(finished / "run")
    assert list(losses) == [9, 18, 27]
    assert losses[27] < losses[9] < np.log(300)


def test_both_models_load_in_plain_transformers_and_differ_as_the_card_says(
    finished: Path,
) -> None:
    pair = finished / "run" / "pair"
    card = (pair / "README.md").read_text()
    data = build_training_data(Recipe.model_validate(RECIPE), finished)
    losses = {}
    for role in ("good", "bad"):
        model = AutoModelForCausalLM.from_pretrained(pair / role)
        assert model.dtype == torch.bfloat16
        assert model.config.use_cache
        losses[role] = validation_losses(model.float(), data.validation)["all"]
        tokenizer = AutoTokenizer.from_pretrained(pair / role)
        assert tokenizer("a cat").input_ids == data.tokenizer.encode("a cat").ids
    assert f"| all | {losses['good']:.3f} | {losses['bad']:.3f} |" in card
    assert losses["bad"] > losses["good"] + RECIPE["bad_gap"] - 0.01  # bf16 rounding


def test_an_interrupted_run_ends_with_the_same_weights(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    before = (run / "pair" / "good" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "pair")
    shutil.rmtree(run / "checkpoints" / "checkpoint-18")
    shutil.rmtree(run / "checkpoints" / "checkpoint-27")
    train_recipe(finished / "recipe.yaml", finished, run)
    assert (run / "pair" / "good" / "model.safetensors").read_bytes() == before
    assert metrics(run) == metrics(finished / "run")


def test_running_a_finished_run_again_changes_nothing(finished: Path) -> None:
    run = finished / "run"
    files = [path for path in run.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    train_recipe(finished / "recipe.yaml", finished, run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_of_another_recipe_is_refused(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(RECIPE | {"seed": 1}))
    with pytest.raises(PlanMismatch, match="another recipe"):
        train_recipe(other, finished, finished / "run")


def test_logs_for_tensorboard_need_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "find_spec", lambda name: None)
    recipe = write_toy(tmp_path)
    fields = yaml.safe_load(recipe.read_text())
    fields["training"]["tensorboard"] = True
    recipe.write_text(yaml.safe_dump(fields))
    with pytest.raises(UsageError, match="pip install tensorboard, or set it to false"):
        train_recipe(recipe, tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
