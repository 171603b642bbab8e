"""The recipes that come with the project, as far as they can be checked without training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cdgen.train.config import Recipe, load_recipe
from cdgen.train.data.tokenizer import SpecialIds
from cdgen.train.model import model_config

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def training_recipes() -> list[Path]:
    """Return the recipes of `cdgen train`; those of `cdgen run` name arms."""
    return [path for path in sorted(RECIPES.glob("*.yaml")) if "\narms:" not in path.read_text()]


@pytest.mark.parametrize("path", training_recipes(), ids=lambda path: path.stem)
def test_a_recipe_loads_under_the_name_of_its_file(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert f"--config recipes/{path.name}" in path.read_text()


def test_the_base_run_has_the_sizes_of_the_paper() -> None:
    """It has 162.4M parameters, 113.3M without embedding and head, and 8,000 steps of 262,144
    tokens (Ulm et al. 2025, their configs/)."""
    recipe = load_recipe(RECIPES / "tinybabylm-100m.yaml")
    every, inner = parameters(recipe)
    assert (round(every / 1e6, 1), round(inner / 1e6, 1)) == (162.4, 113.3)
    assert recipe.training.steps * recipe.training.batch_blocks * recipe.block_size == 2_097_152_000


def parameters(recipe: Recipe) -> tuple[int, int]:
    """Return the number of all parameters, and of those that are neither embedding nor head."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(recipe, SpecialIds(3, 1, 2)))
    tables = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    sizes = [(p.numel(), id(p) in tables) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, is_table in sizes if not is_table)
