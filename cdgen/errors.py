"""Errors that a user can act on. Each class carries the exit code that the command line returns."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

# Packages that only some commands need, each with the extra of cdgen that installs it.
_EXTRAS = {"accelerate": "train", "matplotlib": "eval", "scipy": "eval"}


class CdgenError(ValueError):
    """Base of every expected error: one or two lines that say what is wrong and what to do."""

    exit_code = 1


class UsageError(CdgenError):
    """An argument or an input file that cannot be used."""

    exit_code = 2


class PlanMismatch(CdgenError):
    """An output folder that holds a corpus made from another plan."""

    exit_code = 3


class ModelError(CdgenError):
    """A checkpoint that cannot be loaded, or a GOOD and a BAD that do not fit together."""

    exit_code = 4


class StorageError(CdgenError):
    """An output folder that cannot be written, or a damaged file in it."""

    exit_code = 5


class QuarantineError(CdgenError):
    """A complete corpus in which more rows than allowed could not be sampled."""

    exit_code = 6


class Interrupted(CdgenError):
    """A stopped run. The same command, run again, goes on after the last committed range."""

    exit_code = 75


def is_panic(error: BaseException) -> bool:
    """Return whether Rust code gave up; such an error is no Exception, and its class has no module
    that could be imported."""
    return type(error).__name__ == "PanicException"


@contextmanager
def tokenizer_errors(what: str) -> Iterator[None]:
    """Turn whatever the `tokenizers` library raises into a ModelError that begins with `what`. It
    raises Exception itself, nothing narrower, and its Rust code panics on some files."""
    try:
        yield
    except CdgenError:  # ours, or a signal
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ModelError(f"{what} ({one_line(error, 300)}): save the tokenizer again") from error


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Return the message of `error` on a single line, cut to `limit` characters."""
    return " ".join(str(error).split())[:limit]


def report(error: Exception) -> int:
    """Print to stderr, in a line or two, what stopped a command, and return its exit code."""
    if "--debug" in sys.argv:
        traceback.print_exc()
    if isinstance(error, CdgenError):
        print(f"cdgen: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        needed = f"{error.name} is not installed: pip install 'cdgen[{_EXTRAS[error.name]}]'"
        print(f"cdgen: {needed}", file=sys.stderr)
        return UsageError.exit_code
    print(
        f"cdgen: unexpected {type(error).__name__}: {one_line(error)}\n"
        "Please report it with the output of the same command after `cdgen --debug`.",
        file=sys.stderr,
    )
    return 1
