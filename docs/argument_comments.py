"""Sphinx extension: the comments beside arguments and fields become part of the API reference.

The code states shapes, dtypes and units on the line of the argument:

    good: torch.Tensor,  # [B, V] float32, any row stride

`setup` adds them to the docstrings that autodoc shows, as one list after the text.
"""

from __future__ import annotations

import inspect
import re
from contextlib import suppress
from textwrap import dedent
from typing import Any

from sphinx.application import Sphinx

_NAMED = re.compile(r"^    (?P<name>\w+)(?::| =) [^#]+  # (?P<comment>.+)$")
_RESULT = re.compile(r"^\) -> [^#]+:  # (?P<comment>.+)$")


def described(source: str) -> list[str]:
    """Return a field list of what the comments beside a function's arguments and result, or a
    class's fields, say."""
    fields, kind = [], "ivar" if re.search("^class ", source, re.MULTILINE) else "param"
    for line in dedent(source).splitlines():
        if match := _NAMED.match(line):
            fields.append(f":{kind} {match['name']}: {match['comment']}")
        elif match := _RESULT.match(line):
            fields.append(f":returns: {match['comment']}")
        if line.startswith(("    def ", ") ->")):  # what follows is the body
            break
    return fields


def _add_comments(
    app: Sphinx, what: str, name: str, documented: Any, options: Any, lines: list[str]
) -> None:
    if what not in ("function", "method", "class"):
        return
    with suppress(OSError, TypeError):  # a class made by another library has no source
        lines += ["", *described(inspect.getsource(documented))]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _add_comments)
