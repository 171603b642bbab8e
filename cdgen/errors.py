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


class LockHeld(StorageError):
    """A lock that another process holds."""


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


def one_line(message: object, limit: int | None = None) -> str:
    """Return an error's message, or a text, on a single line, cut to `limit` characters."""
    return " ".join(str(message).split())[:limit]


# Triton and the CUDA libraries raise a plain RuntimeError, and so does PyTorch's allocator on a
# CPU; only their texts tell what happened.
_GPU_FAILURES = ("Triton Error [CUDA]", "CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")
_NO_GPU_MEMORY = ("out of memory", "ALLOC_FAILED")
_NO_CPU_MEMORY = "DefaultCPUAllocator: "


def is_gpu_failure(error: BaseException) -> bool:
    """Return True if a text of the CUDA libraries says that the GPU failed."""
    return any(name in str(error) for name in _GPU_FAILURES)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return True if the device ran out of memory, whichever library noticed it.

    A graph's capture that runs out of memory then fails to end as well, with an error of its own,
    so the errors that were being handled count too. PyTorch need not be imported.
    """
    if error is None:
        return False
    text = str(error)
    on_gpu = is_gpu_failure(error) and any(name in text for name in _NO_GPU_MEMORY)
    by_class = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return by_class or on_gpu or _NO_CPU_MEMORY in text or is_out_of_memory(error.__context__)


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
    if is_out_of_memory(error):
        print(
            f"cdgen: out of memory: {one_line(error, 200)}\n"
            "What was finished is kept. End other programs, or compute less at once (fewer --slots,"
            " a smaller micro_batch_blocks), then run the same command again.",
            file=sys.stderr,
        )
        return Interrupted.exit_code
    print(
        f"cdgen: unexpected {type(error).__name__}: {one_line(error)}\n"
        "Please report it with the output of the same command after `cdgen --debug`, and that of"
        " `cdgen doctor`.",
        file=sys.stderr,
    )
    return 1
