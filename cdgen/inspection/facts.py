"""An inspected sequence in JSON types; numbers that are not finite are null."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from cdgen.inspection.inspected import Inspected
from cdgen.inspection.positions import Position
from cdgen.inspection.summary import summary_of


def facts_of(found: Inspected) -> dict[str, Any]:
    """Return everything that the other views show, in full precision."""
    facts: dict[str, Any] = _finite(
        {
            "subject": found.subject,
            "models": found.models,
            "settings": found.settings,
            "prompt_tokens": found.sequence.prompt_tokens,
            "summary": asdict(summary_of(found)),
            "first_token": _token(found, found.sequence.tokens[0]),
            "positions": [_position(found, record) for record in found.positions],
            "notes": list(found.notes),
        }
    )
    return facts


def _position(found: Inspected, record: Position) -> dict[str, Any]:
    drawn = {name: _token(found, token) for name, token in vars(record.drawn).items()}
    fields = {**asdict(record), "difference": record.difference, "drawn": drawn}
    return {**fields, "token": _token(found, record.token)}


def _token(found: Inspected, token: int | None) -> dict[str, Any] | None:
    return None if token is None else {"id": token, "text": found.texts.text(token)}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
