"""The differences between two versions of a record, field by field, for error messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 80  # characters of a value
_SHOWN_OF_HASH = 12


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one text per field that differs: its dotted name and both values.

    Nested mappings, and lists of them, are compared part by part.
    """
    before, after = flat(old), flat(new)
    names = [*before, *(name for name in after if name not in before)]
    pairs = ((name, before.get(name), after.get(name)) for name in names)
    return [f"{name}: was {_brief(a)}, now {_brief(b)}" for name, a, b in pairs if a != b]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings and lists by their dotted names."""
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif _is_list_of_mappings(value):
        parts = [(str(index), part) for index, part in enumerate(value)]
    else:
        return {name: value}
    leaves: dict[str, Any] = {}
    for key, part in parts:
        leaves |= flat(part, f"{name}.{key}" if name else key)
    return leaves


def _is_list_of_mappings(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and any(isinstance(part, Mapping) for part in value)


def _brief(value: Any) -> str:
    text = "(absent)" if value is None else str(value)
    shown = _SHOWN_OF_HASH if re.fullmatch("[0-9a-f]{64}", text) else _SHOWN
    return text if len(text) <= shown else f"{text[:shown]}..."
