"""Reading the recipe of an experiment from its YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cdgen.errors import UsageError
from cdgen.experiment.recipe import RunRecipe
from cdgen.settings import problems, read_yaml


def load_run_recipe(path: Path, data: Path) -> RunRecipe:
    """Read a recipe of `cdgen run`. Raises UsageError for an unreadable file, invalid YAML, or
    invalid fields, each of them named.

    `base` is a recipe of `cdgen train`, or the path of one, relative to the file.
    """
    values = read_yaml(path)
    values["base"] = _base(values, path)
    try:
        return RunRecipe.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{path}: {'; '.join(problems(error))}; correct the recipe") from error


def _base(values: dict[str, Any], path: Path) -> Any:
    base = values.get("base")
    if isinstance(base, str):
        return read_yaml(path.parent / base)
    return {"name": "base", **base} if isinstance(base, dict) else base
