"""A student on real and synthetic text: shares, record, resume, export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from toy_run import RECIPE, generate_demo_corpus, write_toy
from transformers import AutoModelForCausalLM

from cdgen.errors import PlanMismatch, UsageError
from cdgen.train.config import Recipe
from cdgen.train.data.packing import read_and_taught
from cdgen.train.data.tokenizer import EOS_ID
from cdgen.train.data.training_data import build_training_data
from cdgen.train.loop import MixtureDataset, train_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RATIO = 0.3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 32 documents of the bundled pair."""
    return generate_demo_corpus(tmp_path_factory.mktemp("corpus") / "out", max_new_tokens=40)


@pytest.fixture
def student(corpus: Path) -> Callable[..., dict[str, Any]]:
    """Return the toy recipe with synthetic text in it."""

    def recipe(**synthetic: Any) -> dict[str, Any]:
        mixing = {"ratio": RATIO, "corpora": [{"name": "cd", "path": str(corpus)}], **synthetic}
        return {**RECIPE, "bad_gap": None, "synthetic": mixing}

    return recipe


def save(recipe: dict[str, Any], folder: Path) -> Path:
    path = write_toy(folder)
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_every_step_has_its_share_of_synthetic_sequences(
    student: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    save(student(), tmp_path)
    recipe = Recipe.model_validate(student())
    built = build_training_data(recipe, tmp_path)
    dataset = MixtureDataset(built, 27 * 4)
    synthetic_blocks, _ = read_and_taught(torch.from_numpy(built.train[1].astype(np.int64)))
    known = {block.numpy().tobytes() for block in synthetic_blocks}
    synthetic = 0
    for position in range(len(dataset)):
        tokens = dataset[position]["input_ids"].numpy()
        synthetic += tokens.tobytes() in known
        assert abs(synthetic - RATIO * (position + 1)) <= 0.5
    assert not (built.train[1] == 0).any()  # no padding: a block counts as a whole sequence


def test_a_run_says_what_it_read_and_leaves_a_model(
    student: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = save(student(), tmp_path), tmp_path / "run"
    train_recipe(path, tmp_path, run)
    record = json.loads((run / "mixture.json").read_text())
    assert record["steps"] == 27 and record["sequences"] == 108
    assert record["streams"]["cd"]["sequences"] == 32  # 32.4, rounded
    assert record["streams"]["real"]["tokens"] == 76 * 16
    said = capsys.readouterr().out
    assert "cd: another tokenizer's corpus, tokenized again from its text" in said
    assert f"cd: 32 sequences, read {record['streams']['cd']['epochs']:.2f} times over" in said
    assert not (run / "pair").exists()
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert model.config.max_position_embeddings == 16
    # Interrupted after step 9, it ends with the same weights.
    before = (run / "model/model.safetensors").read_bytes()
    for name in ("model", "checkpoints/checkpoint-18", "checkpoints/checkpoint-27"):
        shutil.rmtree(run / name)
    train_recipe(path, tmp_path, run)
    assert (run / "model/model.safetensors").read_bytes() == before


def test_added_text_takes_steps_of_its_own(student: Callable[..., dict[str, Any]]) -> None:
    """27 steps of real text at 30 % synthetic are 27 / 0.7 in all."""
    added = Recipe.model_validate(student(mode="add"))
    assert added.total_steps == 39
    assert Recipe.model_validate(student()).total_steps == 27


def test_false_ends_are_taught_only_if_asked_for(
    student: Callable[..., dict[str, Any]], corpus: Path, tmp_path: Path
) -> None:
    save(student(), tmp_path)
    ends = []
    for false_ends in (False, True):
        named = {"name": "cd", "path": str(corpus), "false_ends": false_ends}
        recipe = Recipe.model_validate(student(corpora=[named]))
        _, synthetic = build_training_data(recipe, tmp_path, tmp_path).train
        ends.append(np.count_nonzero(synthetic == EOS_ID))
    assert ends[1] > ends[0]


def test_other_corpora_are_another_run(
    student: Callable[..., dict[str, Any]], corpus: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    recipe = student(corpora=[{"name": "cd", "path": str(mine)}])
    recipe["training"] = {**RECIPE["training"], "steps": 9}
    path = save(recipe, tmp_path)
    train_recipe(path, tmp_path, tmp_path / "run")
    manifest = mine / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(PlanMismatch, match="another recipe"):
        train_recipe(path, tmp_path, tmp_path / "run")


@pytest.mark.parametrize(
    ("synthetic", "says"),
    [
        ({"ratio": 1.0}, "less than 1"),
        ({"ratio": -0.1}, "greater than or equal to 0"),
        ({"corpora": []}, "at least 1"),
        ({"corpora": [{"name": "real", "path": "x"}]}, "real: expected another name"),
        ({"mode": "mix"}, "replace"),
    ],
)
def test_bad_recipes_are_refused(
    student: Callable[..., dict[str, Any]], tmp_path: Path, synthetic: dict[str, Any], says: str
) -> None:
    path = save(student(**synthetic), tmp_path)
    with pytest.raises(UsageError, match=says):
        train_recipe(path, tmp_path, tmp_path / "run")


def test_a_missing_corpus_is_refused(
    student: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = save(student(corpora=[{"name": "cd", "path": str(tmp_path / "none")}]), tmp_path)
    with pytest.raises(UsageError, match="finalized"):
        train_recipe(path, tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
