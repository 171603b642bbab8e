"""The folder of a run: one writer, nothing of others, and what may change before it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_run import RECIPE, write_toy
from transformers import LlamaConfig

from cdgen.errors import ModelError, PlanMismatch, StorageError, UsageError
from cdgen.train import loop
from cdgen.train.config import Recipe
from cdgen.train.data.tokenizer import for_transformers, train_tokenizer
from cdgen.train.loop import train_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
LINES = [f"Line {i} of it here." for i in range(200)]
Recipes = Callable[..., Path]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipes:
    """Write a student's recipe of 4 steps and 2 checkpoints, with fields and `training` changed."""
    write_toy(tmp_path)
    (tmp_path / "lines.txt").write_text("\n".join(LINES))

    def write(training: dict[str, Any] | None = None, **fields: Any) -> Path:
        few = {"steps": 4, "checkpoint_every": 2, **(training or {})}
        wanted = {**deepcopy(RECIPE), "bad_gap": None, **fields}
        wanted["training"] = {**RECIPE["training"], **few}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(wanted))
        return path

    return write


def rows_of_lines(**fields: Any) -> dict[str, Any]:
    shares = {"validation": 0.2, "prompts": 0.1}
    fixed = {"name": "lines", "path": "lines.txt", "licence": "none", "split": "rows"}
    return {**fixed, **shares, **fields}


def weights(run: Path) -> bytes:
    return (run / "model/model.safetensors").read_bytes()


# ---- what may change, and what may not ---------------------------------------------------------


def test_another_tokenizer_in_the_same_folder_is_another_run(
    recipe: Recipes, tmp_path: Path
) -> None:
    folder, run = tmp_path / "tokenizer", tmp_path / "run"
    for_transformers(train_tokenizer(LINES[:9], 270), 16).save_pretrained(folder)
    train_recipe(recipe(tokenizer=str(folder)), tmp_path, run)
    shutil.copytree(folder, tmp_path / "moved")
    train_recipe(recipe(tokenizer=str(tmp_path / "moved")), tmp_path, run)
    shutil.rmtree(run / "checkpoints/checkpoint-4")
    for_transformers(train_tokenizer(LINES, 300), 16).save_pretrained(folder)
    with pytest.raises(PlanMismatch, match=r"tokenizer_sha256: was .*, now"):
        train_recipe(recipe(tokenizer=str(folder)), tmp_path, run)


def test_fields_that_decide_no_weight_may_change(recipe: Recipes, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_recipe(recipe(sources=[rows_of_lines()]), tmp_path, run)
    before = weights(run)
    changed = {"name": "other", "sources": [rows_of_lines(licence="MIT")], "split_seed": 0}
    train_recipe(recipe(training={"milestones": False}, **changed), tmp_path, run)
    assert weights(run) == before
    recorded = json.loads((run / "recipe.json").read_text())
    assert (recorded["name"], recorded["sources"][0]["licence"]) == ("other", "MIT")


def test_a_field_that_an_older_run_did_not_know_has_its_default(
    recipe: Recipes, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train_recipe(recipe(), tmp_path, run)
    recorded = json.loads((run / "recipe.json").read_text())
    for section, field in ((recorded, "split_seed"), (recorded["training"], "attention")):
        del section[field]
    (run / "recipe.json").write_text(json.dumps(recorded))
    train_recipe(recipe(), tmp_path, run)
    del recorded["training"]["beta2"]
    (run / "recipe.json").write_text(json.dumps(recorded))
    with pytest.raises(PlanMismatch, match=r"training\.beta2: was 0\.95, now 0\.9\b"):
        train_recipe(recipe(training={"beta2": 0.9}), tmp_path, run)


@pytest.mark.parametrize(
    ("training", "fields", "names"),
    [
        ({"learning_rate": 0.01}, {}, r"training\.learning_rate: was 0\.02, now 0\.01"),
        ({"micro_batch_blocks": 4}, {}, r"training\.micro_batch_blocks: was 2, now 4"),
        ({}, {"seed": 1}, r"seed: was 0, now 1; split_seed: was 0, now 1"),
        ({}, {"split_seed": 1}, r"text: split_seed: was 0, now 1"),
        ({}, {"sources": [rows_of_lines(validation=0.3)]}, r"sources\.0\.validation: was 0\.2"),
        ({}, {"block_size": 8}, "block_size: was 16, now 8"),
    ],
    ids=str,
)
def test_a_changed_field_that_decides_the_weights_is_named(
    recipe: Recipes, tmp_path: Path, training: Any, fields: Any, names: str
) -> None:
    same = {"sources": [rows_of_lines()]}
    train_recipe(recipe(**same), tmp_path, tmp_path / "run")
    with pytest.raises(PlanMismatch, match=names):
        train_recipe(recipe(training=training, **(same | fields)), tmp_path, tmp_path / "run")


def test_a_config_counts_by_its_content_not_its_path(recipe: Recipes, tmp_path: Path) -> None:
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = LlamaConfig(**shape, num_attention_heads=2, vocab_size=300)
    for folder in ("here", "there"):
        config.save_pretrained(tmp_path / folder)
        train_recipe(recipe(model=str(tmp_path / folder)), tmp_path, tmp_path / "run")
    config.intermediate_size = 16
    config.save_pretrained(tmp_path / "here")
    with pytest.raises(PlanMismatch, match=r"architecture\.intermediate_size: was 8, now 16"):
        train_recipe(recipe(model=str(tmp_path / "here")), tmp_path, tmp_path / "run")


def test_a_gap_that_is_too_wide_can_be_lowered(
    recipe: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="lower bad_gap"):
        train_recipe(recipe(bad_gap=9.0), tmp_path, tmp_path / "run")
    monkeypatch.setattr(loop.RunTrainer, "train", lambda *_, **__: pytest.fail("trained again"))
    train_recipe(recipe(bad_gap=0.001), tmp_path, tmp_path / "run")
    assert (tmp_path / "run/pair/bad/config.json").exists()
    budget = json.loads((tmp_path / "run/budget.json").read_text())
    assert "BAD" in {reading["reader"] for reading in budget["readings"]}


def test_students_of_other_seeds_share_a_split(recipe: Recipes, tmp_path: Path) -> None:
    prompts, texts = set(), set()
    for seed in (1, 2):
        run = tmp_path / f"run-{seed}"
        path = recipe(sources=[rows_of_lines()], seed=seed, split_seed=0)
        train_recipe(path, tmp_path, run)
        prompts.add((run / "prompts.jsonl").read_bytes())
        texts.add(json.loads((run / "mixture.json").read_text())["texts"]["lines"]["sha256"])
    assert (len(prompts), len(texts)) == (1, 1)
    assert weights(tmp_path / "run-1") != weights(tmp_path / "run-2")
    assert Recipe.model_validate(RECIPE | {"seed": 7}).holdout_seed == 7


# ---- whose folder it is ------------------------------------------------------------------------


def test_a_second_run_into_a_busy_folder_is_refused(
    recipe: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, first = recipe(), loop.run_training

    def meanwhile(*args: Any) -> None:
        monkeypatch.setattr(loop, "run_training", first)
        with pytest.raises(StorageError, match=r"another run is writing into .*run"):
            train_recipe(path, tmp_path, tmp_path / "run")
        first(*args)

    monkeypatch.setattr(loop, "run_training", meanwhile)
    train_recipe(path, tmp_path, tmp_path / "run")
    train_recipe(path, tmp_path, tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"sources": [rows_of_lines(validation=1e-6)]}, "falls to validation"),
        ({"tokenizer": "nowhere"}, "expected byte-level, sentencepiece or a folder"),
        ({"model": "config"}, "an encoder"),
    ],
    ids=str,
)
def test_a_recipe_that_was_refused_can_be_corrected(
    recipe: Recipes, tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    """The corrected recipe has no prompts, so those of the first must not stay."""
    if "model" in fields:
        bert = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1}
        bert |= {"num_attention_heads": 2, "intermediate_size": 8}
        (tmp_path / "config.json").write_text(json.dumps(bert))
        fields = {"model": str(tmp_path / "config.json")}
    fields = {"sources": [rows_of_lines()], **fields}
    with pytest.raises(UsageError, match=says):
        train_recipe(recipe(**fields), tmp_path, tmp_path / "run")
    corrected = recipe(sources=[rows_of_lines(prompts=0)])
    train_recipe(corrected, tmp_path, tmp_path / "run")
    assert not (tmp_path / "run/prompts.jsonl").exists()


def test_a_run_that_is_refused_at_once_leaves_no_trace(recipe: Recipes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is --data right"):
        train_recipe(recipe(), tmp_path / "none", tmp_path / "a/run")
    assert not (tmp_path / "a").exists()


def test_a_folder_of_something_else_is_refused(recipe: Recipes, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    with pytest.raises(PlanMismatch, match=r"is not empty \(it holds thesis\.tex\)"):
        train_recipe(recipe(), tmp_path, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    run = tmp_path / "run"
    train_recipe(recipe(), tmp_path, run)
    (run / "recipe.json").unlink()
    with pytest.raises(PlanMismatch, match=r"has no recipe\.json"):
        train_recipe(recipe(), tmp_path, run)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "toy"}'])
def test_a_damaged_record_is_reported(recipe: Recipes, tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.json").write_text(content)
    with pytest.raises(StorageError, match=r"recipe\.json is damaged"):
        train_recipe(recipe(), tmp_path, tmp_path / "run")


def test_an_out_that_is_a_file_is_refused(recipe: Recipes, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"recipe\.yaml"):
        train_recipe(recipe(), tmp_path, tmp_path / "recipe.yaml")


@pytest.mark.thorough
def test_control_c_ends_a_run_with_one_line(recipe: Recipes, tmp_path: Path) -> None:
    path, run = recipe(training={"steps": 4000, "checkpoint_every": 40}), tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "cdgen.train", "--config", path, "--data", tmp_path, "--out", run],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (run / "checkpoints/checkpoint-40").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.splitlines()[-1].startswith("cdgen: interrupted; what was finished is kept.")
    assert "Traceback" not in said
