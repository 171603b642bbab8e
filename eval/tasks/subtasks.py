"""Sub-tasks: how a task's score averages over them, and the score of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    def of(cls, predictions: list[Prediction], files_weigh_alike: bool = False) -> Subtasks:
        """Give all sub-tasks the same weight; with `files_weigh_alike`, all files, and within a
        file its sub-tasks (FILE_N_ops: the numbers of operations in entity tracking)."""
        names, groups = np.unique([row["uid"] for row in predictions], return_inverse=True)
        files = [uid.rsplit("_", 2)[0] if files_weigh_alike else uid for uid in names]
        sizes = np.array([files.count(file) for file in files])
        return cls(names.tolist(), groups, 1.0 / (sizes * len(set(files))))

    def mean(self, credit: np.ndarray) -> Estimate:  # [n] float64 in [0, 1]
        return mean_of_groups(credit, self.groups, self.weights)

    def parts(self, credit: np.ndarray) -> dict[str, tuple[Estimate, int]]:  # [n] float64
        """Return the score of each sub-task and its number of items."""
        credits = {name: credit[self.groups == group] for group, name in enumerate(self.names)}
        return {name: (mean(own), len(own)) for name, own in credits.items()}

    def scored(self, credit: np.ndarray) -> Scored:  # [seeds, n] float64
        return macro(credit, self.groups, self.weights)
