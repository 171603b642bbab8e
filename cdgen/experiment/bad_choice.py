"""How the recipe of an experiment names GOOD and BAD among the checkpoints of its own runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.errors import UsageError

EXPECTED = (
    "expected step:N (an earlier checkpoint), gap:G (the last checkpoint G nats per token worse"
    " than GOOD), small:NAME (a model of `smaller`), or what `cdgen generate --bad` makes of GOOD,"
    " such as dropout:0.5 or layers:4"
)


@dataclass(frozen=True)
class BadChoice:
    """A BAD as a recipe names it."""

    kind: Literal["step", "gap", "small", "of_good"]
    value: str  # the number or name after the colon; for `of_good` the value of --bad

    @property
    def step(self) -> int:
        return int(self.value)


def parse_bad_choice(text: str) -> BadChoice:
    """Parse `bad` of an arm. Raises UsageError."""
    kind, _, value = text.partition(":")
    if kind == "step":
        return BadChoice("step", str(parse_step(text)))
    if kind == "gap":
        return BadChoice("gap", f"{_parse_gap(text, value):g}")
    if kind == "small" and value:
        return BadChoice("small", value)
    if not value or not parse_bad(text).is_made_of_good:
        raise UsageError(f"bad: {text}: {EXPECTED}")
    return BadChoice("of_good", text)


def parse_step(text: str) -> int:
    """Parse `step:N`. Raises UsageError."""
    kind, _, value = text.partition(":")
    if kind != "step" or not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise UsageError(f"{text}: expected step:N with N of 1 or more, such as step:500")
    return int(value)


def _parse_gap(text: str, value: str) -> float:
    try:
        gap = float(value)
    except ValueError:
        gap = math.nan
    if not 0 < gap < math.inf:
        raise UsageError(f"bad: {text}: expected gap:G with nats per token above 0, as gap:0.3")
    return gap
