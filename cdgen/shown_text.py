"""Text of models, of data and of file names, made harmless before a terminal or a page shows it.

A terminal obeys control characters: an escape sequence in a document or in a file's name could
colour, overwrite or retitle what it shows, or write to the clipboard. Every process of the command
line therefore prints through `protect_terminal`, and what is drawn past it (the live views of
`rich`) goes through `shown`. Markdown that cdgen writes goes through `in_markdown` and `as_code`.
"""

from __future__ import annotations

import re
import sys
from typing import Any, TextIO

# C0 but tab and line feed, DEL and C1; the marks that reorder a line for its reader, and line and
# paragraph separators; halves of surrogate pairs, as which Python reads names that are not UTF-8.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BEGINS_MARKDOWN = re.compile(r"[\\|\[\]`]")
_ENTITY = re.compile(r"&(?=#?\w+;)")


def shown(text: str) -> str:
    """Return `text` with every character that is obeyed, not shown, as JSON writes it: \\u001b."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_markdown(text: str) -> str:
    """Return text for a line or a table cell of Markdown, in which it begins no tag, link, code or
    other cell."""
    escaped = _BEGINS_MARKDOWN.sub(r"\\\g<0>", " ".join(shown(text).split("\n")))
    return _ENTITY.sub("&amp;", escaped).replace("<", "&lt;")


def as_code(text: str) -> str:
    """Return text as code within a table cell of Markdown."""
    return f"`{' '.join(shown(text).replace('`', chr(39)).replace('|', '/').split())}`"


class ShownStream:
    """A text stream that shows the characters that its terminal would obey."""

    def __init__(self, bare: TextIO) -> None:
        self.bare = bare

    def write(self, text: str) -> int:
        self.bare.write(shown(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)


def protect_terminal() -> None:
    """Let this process print through `shown`, whoever prints: its warnings and tracebacks too."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, ShownStream):
            setattr(sys, name, ShownStream(stream))


def bare(stream: TextIO) -> TextIO:
    """Return a stream as it was before `protect_terminal`, for a program that moves the cursor."""
    return stream.bare if isinstance(stream, ShownStream) else stream
