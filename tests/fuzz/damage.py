"""Damaged files, made from bytes: the fuzzer and hypothesis choose the bytes.

The first byte decides. Even: the rest is the content of the file as it is. Odd: the rest chooses
edits of a valid one, so that the checks behind the parser are reached as well. The second byte
chooses among the valid ones, if there are several.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 255, 2**24, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30),
    *(0.5, -0.0, 1e308, math.nan, math.inf, -math.inf, 1e-320),
    *("", "a", "0", ".", "..", "../x", "/etc/passwd", "a/b", "~", "-", "\0", "\x1b[31m"),
    *("\ud800", "\u202e", "x" * 5000, "%s", "{0}", "$(ls)"),
    *("none", "best", "step:1", "layers:0", "é\n|`<"),
    *([], {}, [None], [[]], {"": None}, {"a": {"a": {"a": {}}}}, [0] * 1000, [{}] * 3),
]  # fmt: skip


class Choices:
    """Numbers from bytes; 0 once they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def below(self, count: int) -> int:
        taken = self.data[self.at : self.at + 2]
        self.at += 2
        return int.from_bytes(taken, "little") % max(1, count)

    def rest(self) -> bytes:
        return self.data[self.at :]

    @property
    def is_spent(self) -> bool:
        return self.at >= len(self.data)


def damaged(data: bytes, valid: Any, write: Callable[[Any], bytes]) -> bytes:
    """Return the content of a damaged file whose valid content is `write(valid)`."""
    if not data or data[0] % 2 == 0:
        return data[2:]
    choices, value = Choices(data[2:]), [copy.deepcopy(valid)]
    while not choices.is_spent:
        _edit(value, value, choices)
    try:
        return write(value[0])
    except (ValueError, TypeError, RecursionError):  # no such file can be written
        return b""


def _edit(whole: Any, part: Any, choices: Choices) -> None:
    """Change one place in a list or a mapping, at any depth."""
    if not part:
        return
    keys = [*range(len(part))] if isinstance(part, list) else [*part]
    key = keys[choices.below(len(keys))]
    way = choices.below(8)
    if way < 4 and isinstance(part[key], list | dict) and part[key]:
        _edit(whole, part[key], choices)
    elif way == 4 and part is not whole:
        del part[key]
    elif way == 5 and isinstance(part, dict):
        part[f"{NASTY[choices.below(len(NASTY))]!r:.40}"] = copy.deepcopy(part[key])
    elif way == 6 and isinstance(part, list) and part is not whole:
        part.append(copy.deepcopy(part[key]))
    elif part is not whole or isinstance(part[key], list | dict):
        part[key] = copy.deepcopy(NASTY[choices.below(len(NASTY))])
