"""A whole run on a toy corpus: train, interrupt, resume, choose the pair, export, reload."""

from __future__ import annotations

import json
import lzma
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from cdgen.errors import ModelError, PlanMismatch
from cdgen.train.config import Recipe
from cdgen.train.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, SpecialIds
from cdgen.train.data.training_data import build_corpus
from cdgen.train.loop import train_recipe
from cdgen.train.model import new_model
from cdgen.train.pair import choose_pair
from cdgen.train.validation import validation_losses

SPECIALS = SpecialIds(PAD_ID, BOS_ID, EOS_ID)
RECIPE = {
    "name": "toy",
    "seed": 0,
    "vocab_size": 300,
    "block_size": 16,
    "sources": [
        {
            "name": "toys",
            "path": "s.txt.xz",
            "licence": "none",
            "split": "endoftext",
            "validation": 0.2,
            "prompts": 0,
        }
    ],
    "model": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "training": {
        "steps": 27,  # ends in the middle of an epoch
        "batch_blocks": 4,
        "micro_batch_blocks": 2,
        "learning_rate": 0.02,
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "checkpoint_every": 9,
        "bf16": False,
        "compile": False,
    },
    "bad_gap": 0.1,
}


def write_toy(folder: Path) -> Path:
    """Write a recipe into `folder`, and its data: stories that differ in a name and an animal."""
    stories = [
        f"Once there was a {animal} called {name}. {name} was happy.\n<|endoftext|>"
        for animal in ("cat", "dog", "hen", "cow")
        for name in ("Tom", "Lily", "Ben", "Sue", "Max")
    ]
    with lzma.open(folder / "s.txt.xz", "wt") as file:
        file.write("\n".join(stories))
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


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
    corpus = build_corpus(Recipe.model_validate(RECIPE), finished)
    losses = {}
    for role in ("good", "bad"):
        model = AutoModelForCausalLM.from_pretrained(pair / role)
        assert model.dtype == torch.bfloat16
        assert model.config.use_cache
        losses[role] = validation_losses(model.float(), corpus.validation)["all"]
        tokenizer = AutoTokenizer.from_pretrained(pair / role)
        assert tokenizer("a cat").input_ids == corpus.tokenizer.encode("a cat").ids
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


def test_the_validation_loss_is_the_mean_over_predicted_tokens(tmp_path: Path) -> None:
    write_toy(tmp_path)
    model = new_model(Recipe.model_validate(RECIPE), SPECIALS)
    blocks = np.random.default_rng(0).integers(3, 300, (11, 16), dtype=np.int32)
    blocks[-1, 5:] = ~PAD_ID
    sums = []
    for block in torch.from_numpy(blocks).long():
        length = int((block >= 0).sum())
        loss = model(input_ids=block[None, :length], labels=block[None, :length]).loss
        sums.append(loss.item() * (length - 1))
    losses = validation_losses(model, {"first": blocks[:10], "last": blocks[10:]})
    assert losses["first"] == pytest.approx(sum(sums[:10]) / 150, rel=1e-5)
    assert losses["last"] == pytest.approx(sums[10] / 4, rel=1e-5)
    assert losses["all"] == pytest.approx(sum(sums) / 154, rel=1e-5)
    assert model.training


def test_good_is_the_best_and_bad_the_last_far_enough_behind() -> None:
    losses = {1: 5.0, 2: 4.0, 3: 3.6, 4: 3.0, 5: 3.9}
    assert choose_pair(losses, gap=0.5) == (4, 3)
    assert choose_pair(losses, gap=0.7) == (4, 2)
    with pytest.raises(ModelError, match=re.escape("step 4 (loss 3.000) is 2.5 nats")):
        choose_pair(losses, gap=2.5)
