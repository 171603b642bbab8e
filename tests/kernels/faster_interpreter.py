"""Triton's interpreter without its search at every call, which took half of these tests' time.

A launch replaces every builtin of triton.language. The interpreter then searches the language for
builtins again whenever one jitted function calls another (3.6, 3.7), and finds none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from triton import language as tl
from triton.runtime import interpreter


def search_once() -> None:
    """Make a call from function to function search the language only where builtins are left."""
    interpreter.InterpretedFunction.__call__ = _call


@cache
def _languages(fn: Callable[..., Any]) -> list[ModuleType]:
    return [value for value in fn.__globals__.values() if value is tl or value is tl.core]


def _call(self: interpreter.InterpretedFunction, *args: Any, **kwargs: Any) -> Any:
    # All builtins of a language are replaced together: one tells for all.
    if any(tl.core.is_builtin(language.load) for language in _languages(self.fn)):
        interpreter._patch_lang(self.fn)
    try:
        return self.rewrite()(*args, **kwargs)
    except Exception as error:
        raise interpreter.InterpreterError(repr(error)) from error
