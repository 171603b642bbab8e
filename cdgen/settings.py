"""Read settings from YAML and check them with pydantic; a mistake is a UsageError."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cdgen.errors import UsageError, one_line

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises UsageError if it holds anything else."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected `name: value` lines, got {type(values).__name__}")
    return values


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Build a `model` from `values`. Raises UsageError about the first field that is not valid."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error" and not first["loc"]:
            raise UsageError(str(first["ctx"]["error"])) from error
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        if first["type"] == "missing":
            raise UsageError(f"{flag} is missing: give the flag or put it into --config") from error
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{flag[2:]} in --config is not an option of this command") from error
        message = first["msg"][0].lower() + first["msg"][1:]
        raise UsageError(f"{flag}: {message}, got {first['input']!r}") from error
