"""Estimates: parameters, tokens, readings, disk and time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_experiment
from transformers import AutoModelForCausalLM

from cdgen.experiment import rates
from cdgen.experiment.costs import (
    Rates,
    cost_of,
    parameters,
    seconds_of,
    task_tokens,
    times_read,
)
from cdgen.experiment.layout import Layout
from cdgen.experiment.load import load_run_recipe
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.run import RunConfig, show_plan
from cdgen.experiment.stages import Plan, Stage
from cdgen.experiment.text import Text
from cdgen.train.data.tokenizer import SpecialIds
from cdgen.train.model import model_config

ROOT = Path(__file__).resolve().parents[3]
TEXT = Text(words=1000, prompts=10, held_out=10)


def load(folder: Path, **changes: Any) -> RunRecipe:
    path = toy_experiment.write_recipe(folder, **changes)
    return load_run_recipe(path, folder, Layout(folder / "out"))[0]


def stages(recipe: RunRecipe, folder: Path) -> dict[str, Stage]:
    plan = Plan(recipe, folder, Layout(folder / "out"), ("run",))
    return {stage.name: stage for stage in plan.stages()}


@pytest.mark.parametrize("name", ["smoke-run", "nano", "micro", "tinybabylm-100m-run"])
def test_parameters_are_those_of_the_model(name: str) -> None:
    path = ROOT / f"recipes/{name}.yaml"
    recipe = load_run_recipe(path, ROOT, Layout(ROOT / "out"))[0].base
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(recipe, SpecialIds(3, 1, 2)))
    assert parameters(recipe) == model.num_parameters()


def test_how_often_a_corpus_is_read(tmp_path: Path) -> None:
    """12 steps of 4 blocks of 16 tokens; 10 prompts for 2 sequences of 4 + 12 tokens."""
    recipe = load(tmp_path)
    assert times_read(recipe, 0.5, TEXT) == pytest.approx(0.5 * 768 / 320)
    # Added text takes steps of its own: 24 instead of 12, half of them synthetic.
    added = load(tmp_path, mixture={"ratios": [0.5], "mode": "add"})
    assert times_read(added, 0.5, TEXT) == pytest.approx(0.5 * 1536 / 320)
    rounded = load(tmp_path, mixture={"ratios": [0.3], "rounding": "paper"})
    assert times_read(rounded, 0.3, TEXT) == pytest.approx(0.25 * 768 / 320)


def test_what_a_stage_costs(tmp_path: Path) -> None:
    small = {**toy_experiment.BASE["model"], "hidden_size": 8, "intermediate_size": 16}
    recipe = load(tmp_path, smaller={"half": small})
    found, base = stages(recipe, tmp_path), recipe.base
    stated = Rates(training=100, generation=50, evaluation=200, start=10, machine="of a test")

    def seconds(name: str) -> float | None:
        cost = cost_of(found[name], recipe, TEXT, task_tokens=400)
        return seconds_of(found[name], cost, base, stated)

    assert seconds("base") == 10 + 768 / 100
    assert seconds("corpus-cd") == 10 + 320 / 50
    assert seconds("eval-cd-0.3-seed1") == 10 + 400 / 200
    assert seconds("tasks") == 0
    sizes = (parameters(found["smaller-half"].recipe or base), parameters(base))
    assert sizes[0] and sizes[1] and sizes[0] < sizes[1]
    assert seconds("smaller-half") == pytest.approx(10 + 768 / 100 * sizes[0] / sizes[1])
    # Three checkpoints of weights and AdamW's two moments in fp32, one export in bf16.
    disk = cost_of(found["base"], recipe, TEXT, 400).bytes
    assert disk == pytest.approx(sizes[1] * (3 * 12 + 2) + 1000 * 1.4 * 4, rel=0.001)


def test_every_checkpoint_is_judged_if_one_is_chosen_by_its_scores(tmp_path: Path) -> None:
    judged = {"tasks": ["perplexity"], "checkpoint": "paper"}
    recipe = load(tmp_path, evaluation=judged)
    stage = stages(recipe, tmp_path)["eval-baseline-seed1"]
    assert cost_of(stage, recipe, TEXT, task_tokens=400).tokens == 3 * 400


def test_plain_text_has_more_tokens_than_items_of_its_size(tmp_path: Path) -> None:
    for task, tokens in (("perplexity", 100), ("blimp_a", 20)):
        (tmp_path / task).mkdir()
        (tmp_path / task / "all.jsonl").write_bytes(b"x" * 400)
        judged = load(tmp_path, evaluation={"tasks": [task]})
        assert task_tokens(judged, tmp_path, Layout(tmp_path / "out")) == tokens


def test_a_rate_leaves_out_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def step() -> int:
        nonlocal now
        now += 0.5 if now else 100.0
        return 50

    monkeypatch.setattr("time.monotonic", lambda: now)
    assert rates._rate(step) == 100


def test_a_dry_run_measures_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(rates, "_SECONDS", 0.02)
    data = toy_experiment.write_text(tmp_path / "data")
    path = toy_experiment.write_recipe(tmp_path)
    _, line, *_ = show_plan(RunConfig(path, data, tmp_path / "out"))
    found = re.search(r"training ([\d,]+), generation ([\d,]+), scoring ([\d,]+); .*measured", line)
    assert found is not None
    assert all(int(rate.replace(",", "")) > 0 for rate in found.groups())
