"""Sub-tasks: how a task's score averages over them, and the score of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cdgen.errors import UsageError
from cdgen.eval.statistics.comparison import Scored, macro
from cdgen.eval.statistics.intervals import Estimate, mean, mean_of_groups
from cdgen.eval.summary import Prediction


@dataclass(frozen=True)
class Subtasks:
    """The sub-tasks of n items, in the order of their names, and how much each of them counts."""

    names: list[str]  # [G]
    groups: np.ndarray  # [n] int64 in 0..G-1: the sub-task of each item
    weights: np.ndarray  # [G] float64, summing to 1

    @classmethod
    def of(
        cls, predictions: list[Prediction], file_of: Callable[[str], str] | None = None
    ) -> Subtasks:
        """Give all sub-tasks the same weight; or all files, by the file that `file_of` names for a
        sub-task, and within a file its sub-tasks."""
        names, groups = np.unique([row["uid"] for row in predictions], return_inverse=True)
        files = [file_of(uid) if file_of else uid for uid in names.tolist()]
        sizes = np.array([files.count(file) for file in files])
        return cls(names.tolist(), groups, 1.0 / (sizes * len(set(files))))

    def mean(self, credit: np.ndarray) -> Estimate:  # [n] float64 in [0, 1]
        return mean_of_groups(credit, self.groups, self.weights)

    def parts(self, credit: np.ndarray) -> dict[str, tuple[Estimate, int]]:  # [n] float64
        """Return the score of each sub-task and its number of items."""
        credits = {name: credit[self.groups == group] for group, name in enumerate(self.names)}
        return {name: (mean(own), len(own)) for name, own in credits.items()}

    def scored(self, credit: np.ndarray) -> Scored:  # [seeds, n] float64
        """Return runs ready for comparison; raises UsageError for a sub-task of one item, of which
        every draw is the same."""
        sizes = np.bincount(self.groups, minlength=len(self.names))
        if sizes.min() < 2:
            name = self.names[sizes.argmin()]
            raise UsageError(f"{name}: a comparison needs two items or more, and it has one")
        return macro(credit, self.groups, self.weights)
