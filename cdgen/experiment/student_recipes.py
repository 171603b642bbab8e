"""The recipes of `cdgen train` that an experiment consists of. Each is an ordinary one and stands
in OUT/recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cdgen.experiment.layout import Layout, Student
from cdgen.experiment.recipe import RunRecipe
from cdgen.storage import make_folder, write_atomic
from cdgen.train.config import Mixing, ModelShape, Recipe, Synthetic


def base_recipe(recipe: RunRecipe) -> Recipe:
    """Return the base run's recipe: it keeps every checkpoint of its schedule and no others, so
    that all runs have the same steps to choose from."""
    training = recipe.base.training.model_copy(update={"milestones": False})
    seed = recipe.base.holdout_seed
    return recipe.base.model_copy(update={"training": training, "split_seed": seed})


def smaller_recipe(recipe: RunRecipe, name: str, shape: ModelShape, layout: Layout) -> Recipe:
    """Return the recipe of a smaller model on the base run's text, with its tokenizer."""
    changed = {"name": name, "model": shape, "tokenizer": _tokenizer(layout)}
    return base_recipe(recipe).model_copy(update=changed)


def student_recipe(recipe: RunRecipe, student: Student, layout: Layout) -> Recipe:
    """Return a student's recipe: the base run's with another seed, and synthetic text if its arm
    has any. The tokenizer is the base run's, so that it fits the corpora."""
    changed: dict[str, Any] = {
        "name": student.name,
        "seed": student.seed,
        "tokenizer": _tokenizer(layout),
    }
    if student.ratio:
        mixture, path = recipe.mixture, layout.corpus(student.arm).absolute()
        changed["synthetic"] = Mixing(
            ratio=mixture.trained(student.ratio),
            mode=mixture.mode,
            corpora=(Synthetic(name=student.arm, path=path, false_ends=mixture.false_ends),),
        )
    return base_recipe(recipe).model_copy(update=changed)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe that `cdgen train --config` reads, if it is not there already."""
    values = recipe.model_dump(mode="json", exclude_none=True)
    content = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()
    if not path.is_file() or path.read_bytes() != content:
        make_folder(path.parent)
        write_atomic(path, content)


def _tokenizer(layout: Layout) -> Path:
    return (layout.base / "model").absolute()
