"""Trials: a fault, the same command again, and what is expected of its files."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from commands import Change, run, unchanged
from material import Expected, Material

from cdgen.errors import CdgenError, StorageError

COMPLETE, REFUSED = 0, StorageError.exit_code
SAME = "the same command then made the same files"
T = TypeVar("T")


class Wrong(Exception):
    """A trial that did not end as it must."""


@dataclass
class Tally:
    """The trials of one fault."""

    fault: str
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    left_out: str | None = None  # why it was not tried

    @property
    def tried(self) -> int:
        return self.outcomes.total() + len(self.wrong)

    @contextmanager
    def trial(self, name: str) -> Iterator[None]:
        """Note what goes wrong in the block."""
        try:
            yield
        except (Wrong, CdgenError, OSError, KeyError) as error:
            self.wrong.append(f"{name}: {type(error).__name__}: {error}")


@dataclass
class Trials:
    """What all trials share; `most` limits those of each list of cases."""

    material: Material
    noise: random.Random
    most: int | None = None

    def some(self, cases: Iterable[T]) -> list[T]:
        """Return all cases, or as many of them as there may be."""
        found = list(cases)
        if self.most is None or len(found) <= self.most:
            return found
        chosen = sorted(self.noise.sample(range(len(found)), self.most))
        return [found[index] for index in chosen]

    def repeat(
        self, command: Sequence[str], out: Path, expected: Expected, change: Change = unchanged
    ) -> None:
        """Run the command to its end; raise Wrong unless it succeeds and leaves these files."""
        code = run(command, self.material.said, change)
        if code != COMPLETE:
            raise Wrong(f"ended with {code}, again: {self.material.said.read_text()[-400:]}")
        require_same(out, expected)
        shutil.rmtree(out)

    def generate_again(self, out: Path, format: str) -> None:
        """Run `cdgen generate` to its end, as `repeat` does."""
        self.repeat(self.material.generate(out, format), out, self.material.corpora[format])

    def duration(self, command: Sequence[str], change: Change = unchanged) -> float:
        """Return the seconds that an undisturbed command takes."""
        began = time.monotonic()
        self.material.make(command, change)
        return time.monotonic() - began


def require_same(out: Path, expected: Expected) -> None:
    if changed := expected.differences(out):
        raise Wrong(f"other files than undisturbed: {', '.join(changed[:5])}")
