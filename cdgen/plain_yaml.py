"""The YAML that settings need: mappings, lists, texts, numbers and dates, each written out once.

`yaml.SafeLoader` builds nothing but those. But it takes the last of two equal keys, lets a file of
a few lines stand for billions of values (an alias of aliases), slows down with every list within a
list, and raises whatever its constructors happen to raise.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_BYTES = 1 << 18  # of a file; the parser takes some seconds for that much
_MAX_DEPTH = 20  # of lists and mappings in each other
_INTEGERS = range(-(2**63), 2**64)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # half a character, or the end of a path


class NotPlain(ValueError):
    """A text that is no YAML, or not of this kind."""


def plain_values(content: bytes) -> Any:
    """Return what a YAML text holds. Raises NotPlain."""
    if len(content) > MAX_BYTES:
        raise NotPlain(f"expected at most {MAX_BYTES >> 10} KB of settings, found more")
    try:
        return yaml.load(content.decode(), _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise NotPlain(str(error)) from error
    except (LookupError, AttributeError, TypeError) as error:  # of constructors, as of `!!int ""`
        raise NotPlain(f"{type(error).__name__}: {error}") from error


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} stands for a value that is elsewhere: write it out",
                problem_mark=event.start_mark,
            )
        if self.depth == _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"more than {_MAX_DEPTH} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        written = len(node.value)
        mapping = super().construct_mapping(node, deep=True)
        if len(mapping) != written:
            raise yaml.MarkedYAMLError(
                problem=f"{_twice(self, node)!r:.80} is given twice", problem_mark=node.start_mark
            )
        return mapping

    def construct_yaml_int(self, node: Any) -> int:
        value: int = super().construct_yaml_int(node)
        if value not in _INTEGERS:
            raise ValueError(f"an integer of more than 64 bits: {node.value:.40}")
        return value

    def construct_yaml_str(self, node: Any) -> str:
        text: str = super().construct_yaml_str(node)
        if found := _NO_TEXT.search(text):
            raise ValueError(f"a text with {found[0]!a}, which no file or name can hold")
        return text


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)


def _twice(loader: _Loader, node: Any) -> Any:
    """Return the first key that a mapping holds twice."""
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            return key
        seen.add(key)
    return "<<"  # a merge, which gives keys of its own
