"""Sizes that a recipe leaves out follow from its text; those that it names stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cdgen.errors import UsageError
from cdgen.experiment.costs import parameters
from cdgen.experiment.layout import Layout
from cdgen.experiment.load import load_run_recipe
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.sizes import SHAPES, complete_base, layer_parameters
from cdgen.experiment.text import TOKENS_PER_WORD
from cdgen.train.config import Recipe

OWN_TEXT = Path(__file__).resolve().parents[3] / "recipes/own-text.yaml"
SOURCE = {"name": "t", "path": ".", "licence": "own", "split": "length", "words": 200}


def base_for(words: int, **given: Any) -> Recipe:
    fields = complete_base({"name": "base", "seed": 1, "sources": [SOURCE], **given}, words)
    return Recipe.model_validate(fields)


@pytest.mark.parametrize("words", [0, 1, 999, 30_000, 400_000, 3_000_000, 10**7, 10**8, 10**10])
def test_every_number_of_words_gives_a_recipe_that_can_train(words: int) -> None:
    recipe = base_for(words)
    training = recipe.training
    assert training.steps == 20 * training.checkpoint_every
    assert training.micro_batch_blocks == training.batch_blocks
    read = training.steps * training.batch_blocks * recipe.block_size
    # 8 times over, but for the last, incomplete step of each of the 20 parts.
    wanted = 8 * words * TOKENS_PER_WORD
    assert wanted <= read <= wanted + 20 * training.batch_blocks * recipe.block_size


def test_larger_texts_get_larger_models() -> None:
    recipes = [base_for(10**power) for power in range(4, 10)]
    sizes = [parameters(recipe) or 0 for recipe in recipes]
    assert sizes == sorted(sizes)
    assert [r.vocab_size for r in recipes] == [512, 1024, 4096, 8192, 32768, 32768]
    assert [r.block_size for r in recipes] == [128, 128, 256, 512, 1024, 1024]
    counts = [layer_parameters(*shape) for shape in SHAPES]
    assert counts == sorted(counts)


def test_what_is_named_stays_and_decides_the_rest() -> None:
    recipe = base_for(10**6, block_size=64, training={"learning_rate": 0.5, "batch_blocks": 8})
    assert (recipe.block_size, recipe.training.learning_rate) == (64, 0.5)
    assert recipe.training.batch_blocks == recipe.training.micro_batch_blocks == 8


def own_text(folder: Path, **changes: Any) -> RunRecipe:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(OWN_TEXT.read_text()), **changes}))
    return load_run_recipe(path, folder / "data", Layout(folder / "out"))[0]


@pytest.fixture
def finnish(tmp_path: Path) -> Path:
    """Write 40,000 words of Finnish, or what looks like it, in two files."""
    data = tmp_path / "data"
    data.mkdir()
    for file in range(2):
        lines = (f"Talon {n} ovella seisoi vanha mies. Hän odotti {file}." for n in range(2500))
        (data / f"{file}.txt").write_text("\n".join(lines))
    return tmp_path


def test_a_folder_of_text_and_nothing_else(finnish: Path) -> None:
    recipe = own_text(finnish)
    assert recipe.base.vocab_size == 512 and recipe.base.block_size == 128
    assert recipe.corpora.max_new_tokens == 108
    # The corpus is about as large as the text, 40,000 words less what is held out.
    assert recipe.corpora.num_sequences > 1


def test_wrong_sizes_are_refused_by_name(finnish: Path) -> None:
    base = {**yaml.safe_load(OWN_TEXT.read_text())["base"], "block_size": "many", "training": 3}
    with pytest.raises(UsageError) as refused:
        own_text(finnish, base=base, corpora={"prompt_tokens": "few"})
    for name in ("base.block_size", "base.training", "corpora.prompt_tokens"):
        assert name in str(refused.value)


def test_text_that_cannot_be_read_is_named_with_what_else_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError, match=r"no usable file in this folder") as refused:
        own_text(tmp_path, seeds=[])
    assert "seeds" in str(refused.value)
