"""Reading the recipe of an experiment from its YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cdgen.errors import UsageError
from cdgen.experiment.layout import Layout
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.sizes import complete_base, complete_corpora
from cdgen.experiment.text import Text, text_of
from cdgen.settings import problems, read_yaml
from cdgen.train.config import Seed, Source


class _Sources(BaseModel):
    """What decides the text, before the sizes are known."""

    model_config = ConfigDict(extra="ignore")

    sources: tuple[Source, ...]
    seed: Seed
    split_seed: Seed | None = None


def load_run_recipe(path: Path, data: Path, layout: Layout) -> tuple[RunRecipe, Text]:
    """Read a recipe of `cdgen run`, and what its sources hold.

    `base` is a recipe of `cdgen train`, or the path of one, relative to the file. Sizes that are
    left out follow from the text (sizes.py). Raises UsageError for an unreadable file, invalid
    YAML, or invalid fields, each of them named; and if sizes are left out and the text cannot be
    read.
    """
    values = read_yaml(path)
    base = values.get("base")
    if isinstance(base, str):
        base = read_yaml(path.parent / base)
    try:
        wanted = _Sources.model_validate(base)
    except ValidationError:
        text = Text(0, 0, 0)  # the recipe itself is refused below
    else:
        seed = wanted.seed if wanted.split_seed is None else wanted.split_seed
        text = text_of(wanted.sources, seed, data, layout)
    try:
        return RunRecipe.model_validate(_complete(values, base, text)), text
    except ValidationError as error:
        said = [*problems(error), *text.problems]
        raise UsageError(f"{path}: {'; '.join(said)}; correct the recipe") from error


def _complete(values: dict[str, Any], base: Any, text: Text) -> dict[str, Any]:
    """Return a recipe with every size, if the sections are what they should be."""
    corpora = values.get("corpora", {})
    if not isinstance(base, dict) or not isinstance(corpora, dict):
        return {**values, "base": base}
    base = complete_base({"name": "base", **base}, text.words)
    corpora = complete_corpora(corpora, base["block_size"], text)
    return {**values, "base": base, "corpora": corpora}
