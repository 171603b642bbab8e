"""What the scores of an experiment's students show: every method against real text alone, and the
contrast against plain sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgen.errors import CdgenError
from cdgen.eval.report.compare import make_report
from cdgen.eval.report.comparison_report import Report
from cdgen.eval.report.methods import Method
from cdgen.eval.report.results import read_results
from cdgen.experiment.layout import Layout, Student, result_files, students_of
from cdgen.experiment.recipe import BASELINE, Arm, RunRecipe
from cdgen.experiment.record import StageRecord


@dataclass(frozen=True)
class Evidence:
    """The comparisons that the finished students allow, and the students that are missing."""

    wanted: tuple[str, ...]  # the methods of the recipe, the baseline first
    methods: list[Method]  # those with a finished student
    missing: dict[str, str]  # why a student has no scores, by its name
    against_real: Report | None  # against the baseline; None without it, or without others
    against_vanilla: dict[float, Report]  # by ratio, against the vanilla arm of that ratio
    problem: str | None = None  # why there is no comparison

    @property
    def silent(self) -> list[str]:
        """Return the methods of which no student is finished."""
        finished = {method.name for method in self.methods}
        return [name for name in self.wanted if name not in finished]


def gather(recipe: RunRecipe, layout: Layout, stages: dict[str, StageRecord]) -> Evidence:
    """Compare the students that are finished."""
    runs: dict[str, list[Path]] = {}
    missing: dict[str, str] = {}
    wanted = list(students_of(recipe))
    for student in wanted:
        folder = layout.scores(student)
        if why := _why_missing(folder, student, stages):
            missing[student.name] = why
        else:
            runs.setdefault(student.method, []).append(folder)
    methods = [Method(name, folders) for name, folders in runs.items()]
    names = tuple(dict.fromkeys(student.method for student in wanted))
    if BASELINE not in runs or len(methods) < 2:
        lacking = "the baseline" if BASELINE not in runs else "any method but the baseline"
        problem = f"no student of {lacking} has scores yet"
        return Evidence(names, methods, missing, None, {}, problem)
    try:
        against_real = _compared(recipe, methods, BASELINE)
        against_vanilla = _against_vanilla(recipe, methods)
    except CdgenError as error:
        return Evidence(names, methods, missing, None, {}, str(error))
    return Evidence(names, methods, missing, against_real, against_vanilla)


def vanilla_arm(recipe: RunRecipe) -> str | None:
    """Return the arm that samples plainly from GOOD; None if there is none."""
    return next((name for name, arm in recipe.arms.items() if is_plain(arm)), None)


def is_plain(arm: Arm) -> bool:
    return arm.strategy == "vanilla" and arm.temperature == 1 and not is_truncated(arm)


def is_truncated(arm: Arm) -> bool:
    return bool(arm.top_k or arm.top_p < 1 or arm.min_p)


def _why_missing(folder: Path, student: Student, stages: dict[str, StageRecord]) -> str | None:
    documents = result_files(folder)
    if not documents:
        tried = [f"{kind}-{student.name}" for kind in ("student", "eval")]
        states = [stages[name].state for name in tried if name in stages]
        return "its stage failed" if "failed" in states else "not finished"
    try:
        invalid = [read_results(path.parent)["config"].get("invalid") for path in documents]
    except CdgenError as error:
        return str(error)
    return invalid[0] if all(invalid) else None


def _compared(recipe: RunRecipe, methods: Sequence[Method], baseline: str) -> Report:
    # A lone checkpoint stands for its run; among several, the recipe's rule chooses.
    return make_report(methods, baseline, recipe.evaluation.checkpoint)


def _against_vanilla(recipe: RunRecipe, methods: Sequence[Method]) -> dict[float, Report]:
    plain, found = vanilla_arm(recipe), {}
    for ratio in dict.fromkeys(student.ratio for student in students_of(recipe)):
        own = [m for m in methods if m.place == f"{ratio:g}" and m.series in recipe.arms]
        base = next((m.name for m in own if m.series == plain), None)
        if base and len(own) > 1:
            found[ratio] = _compared(recipe, own, base)
    return found
