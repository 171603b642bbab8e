"""What the shell offers as values of an option, for `cdgen --install-completion`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin


def offered(annotation: Any) -> Callable[[str], list[str]] | None:
    """Return what completes a value of this type: the texts that it may be, or None if those are
    not listed. The shell then completes names of files."""
    texts = [*_texts(annotation)]
    if not texts:
        return None

    def complete(incomplete: str) -> list[str]:
        return [text for text in texts if text.startswith(incomplete)]

    return complete


def _texts(annotation: Any) -> Iterator[str]:
    """Yield the texts in the Literals of a type."""
    if get_origin(annotation) is Literal:
        yield from (value for value in get_args(annotation) if isinstance(value, str))
        return
    for part in get_args(annotation):
        yield from _texts(part)
