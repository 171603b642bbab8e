"""Errors that a user can act on. Each class carries the exit code that the command line returns."""

from __future__ import annotations


class CdgenError(ValueError):
    """Base of every expected error: one or two lines that say what is wrong and what to do."""

    exit_code = 1


class UsageError(CdgenError):
    """An argument or an input file is not usable."""

    exit_code = 2


class PlanMismatch(CdgenError):
    """The output folder holds a corpus made from another plan."""

    exit_code = 3


class ModelError(CdgenError):
    """A checkpoint cannot be loaded, or GOOD and BAD do not fit together."""

    exit_code = 4


class StorageError(CdgenError):
    """The output folder cannot be written, or what is in it is damaged."""

    exit_code = 5


class QuarantineError(CdgenError):
    """The corpus is complete, but more rows than allowed could not be sampled."""

    exit_code = 6


class Interrupted(CdgenError):
    """Stopped by a signal; running the same command again goes on from the last committed range."""

    exit_code = 75
