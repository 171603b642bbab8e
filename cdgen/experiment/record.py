"""OUT/recipe.json: which experiment a folder holds; and OUT/stages.json: what it has taken so far.

A page or a script that shows an experiment begins with `read_experiment`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cdgen.errors import StorageError, UsageError
from cdgen.experiment.layout import Layout
from cdgen.experiment.recipe import RunRecipe
from cdgen.settings import first_problem
from cdgen.storage import canonical_json, make_folder, write_atomic


class Experiment(BaseModel):
    """The content of recipe.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: RunRecipe  # with every default and every size filled in
    data: Path  # the folder of --data, absolute
    cdgen_version: str  # that began it


class StageRecord(BaseModel):
    """A stage as stages.json has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    command: str  # as one would type it
    state: Literal["done", "failed", "stopped"]  # of the last attempt
    seconds: float  # over all attempts
    attempts: int


_Model = TypeVar("_Model", bound=BaseModel)


class _Stages(BaseModel):
    model_config = ConfigDict(extra="forbid")

    stages: list[StageRecord]


def read_experiment(out: Path) -> Experiment:
    """Read recipe.json. Raises UsageError if `out` holds no experiment, StorageError if the file is
    damaged."""
    path = Layout(out).recipe
    if not path.is_file():
        raise UsageError(f"{out}: expected a folder of cdgen run, found no {path.name}")
    return _read(Experiment, path)


def write_experiment(experiment: Experiment, out: Path) -> None:
    make_folder(out)
    # The order of the arms is that of the recipe.
    write_atomic(Layout(out).recipe, f"{experiment.model_dump_json(indent=2)}\n".encode())


def read_stages(out: Path) -> dict[str, StageRecord]:
    """Return the stages that were tried, by name. Raises StorageError."""
    path = Layout(out).stages
    found = _read(_Stages, path).stages if path.is_file() else []
    return {stage.name: stage for stage in found}


def write_stages(stages: dict[str, StageRecord], out: Path) -> None:
    content = _Stages(stages=list(stages.values())).model_dump(mode="json")
    write_atomic(Layout(out).stages, canonical_json(content))


def _read(model: type[_Model], path: Path) -> _Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StorageError(
            f"{path} is damaged, or of another version of cdgen ({first_problem(error)})"
        ) from error
