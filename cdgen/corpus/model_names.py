"""The names of the models that write a corpus, for people.

They are kept beside the plan and are no part of it: the models' hashes decide the bytes, and a
folder that has moved resumes its corpus. The names are those of the call that began it.
"""

from __future__ import annotations

from cdgen.corpus.plan import FrozenModel


class ModelName(FrozenModel):
    """The fields of `checkpoints.origin.Origin`."""

    name: str
    revision: str | None = None
    config_name: str | None = None

    def __str__(self) -> str:
        revision = f", revision {self.revision}" if self.revision else ""
        other = self.config_name if self.config_name != self.name else None
        return self.name + revision + (f" (config.json: {other})" if other else "")


class ModelNames(FrozenModel):
    good: ModelName
    bad: ModelName | None = None  # None unless BAD is a checkpoint
