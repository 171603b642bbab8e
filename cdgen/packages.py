"""Packages that only some commands and formats need."""

from __future__ import annotations

from importlib.util import find_spec

from cdgen.errors import UsageError


def require_package(name: str, otherwise: str) -> None:
    """Raise UsageError unless `name` is installed; `otherwise` is appended to its advice."""
    if find_spec(name) is None:
        raise UsageError(f"{name} is not installed: pip install {name}{otherwise}")
