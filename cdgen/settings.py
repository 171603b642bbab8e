"""Read settings from YAML and check them with pydantic; a mistake is a UsageError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from cdgen.errors import UsageError, one_line

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)
_SHOWN = 300  # characters of what a parser says, or of a wrong value


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises UsageError if it holds anything else, or what no
    recipe needs (plain_yaml.py)."""
    from cdgen.plain_yaml import MAX_BYTES, NotPlain, plain_values

    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        values = plain_values(content)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except NotPlain as error:
        raise UsageError(f"{path} is not valid YAML: {one_line(error, _SHOWN)}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected `name: value` lines, got {type(values).__name__}")
    return values


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Build a `model` from `values`. Raises UsageError about every field that is not valid."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = field_errors(error).items()
        raise UsageError("; ".join(_of_flag(name, detail) for name, detail in found)) from error


def field_errors(error: ValidationError) -> dict[str, ErrorDetails]:
    """Return the error of every wrong field by its dotted name; "" is the whole.

    The first error counts of a field that may have several types, and those of single fields count
    instead of one about the list or section around them.
    """
    found: dict[str, ErrorDetails] = {}
    for detail in error.errors():
        # Parts with a bracket name no field but one of the types that it may have.
        names = (str(part) for part in detail["loc"])
        found.setdefault(".".join(n for n in names if not re.search(r"[<\[]", n)), detail)
    return {
        name: e for name, e in found.items() if not any(o.startswith(f"{name}.") for o in found)
    }


def problems(error: ValidationError) -> list[str]:
    """Return one text for each wrong field of a YAML file: its name, and what is wrong with it."""
    return [
        f"{name or 'the whole file'}: {_message(detail)}{_unquoted(detail)}"
        for name, detail in field_errors(error).items()
    ]


def first_problem(error: ValidationError, whole: str = "the file") -> str:
    """Return the first error about a file that cdgen wrote: its field, or `whole`, and what is
    wrong."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {_message(first)}"


def _message(detail: ErrorDetails) -> str:
    """Return pydantic's text, or that of our own ValueError without the words put before it."""
    return str(detail["ctx"]["error"] if detail["type"] == "value_error" else detail["msg"])


def _unquoted(detail: ErrorDetails) -> str:
    """Return advice for a text that YAML takes for something else, such as `no` for False."""
    value = detail["input"]
    if detail["type"] not in ("string_type", "path_type") or not isinstance(
        value, bool | int | float | date
    ):
        return ""
    words = " (YAML takes yes, no, on and off for that)" if isinstance(value, bool) else ""
    return f", got {value!s}{words}: quote it if it is text"


def _of_flag(name: str, detail: ErrorDetails) -> str:
    if detail["type"] == "value_error" and not name:
        return str(detail["ctx"]["error"])
    flag = "--" + name.partition(".")[0].replace("_", "-")
    if detail["type"] == "missing":
        return f"{flag} is missing: give the flag or put it into --config"
    if detail["type"] == "extra_forbidden":
        return f"{flag[2:]} in --config is not an option of this command"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{flag}: {message}" + (_unquoted(detail) or f", got {detail['input']!r:.{_SHOWN}}")
