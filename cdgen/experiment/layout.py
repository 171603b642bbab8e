"""The places below OUT of an experiment.

    recipe.json                 the recipe, complete, with the folder of the data
    base/                       the base run (`cdgen train`), of which GOOD and early BADs are made
    smaller/NAME/               the run of each smaller model
    tasks/                      the evaluation data, and the held-out text as tasks/perplexity
    pairs/gap-G.yaml            GOOD and BAD, where losses decide
    corpora/ARM/                the corpus of each arm (`cdgen generate`)
    measures/ARM.json           `cdgen measure` of that corpus
    recipes/STUDENT.yaml        the recipe of each student (`cdgen train --config`)
    students/STUDENT/           its run
    eval/STUDENT/               its scores (`cdgen eval`)
    compare/                    compare.json, compare.md, figures.png (`cdgen compare`)
    report.md  report.html  results.json  figures/
    logs/STAGE.log  stages.json what each stage printed; its command, state and seconds

A student is called ARM-RATIO-seedN, such as cd-0.3-seed1, or baseline-seedN. The baseline whose
seed is that of the base run is the base run itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cdgen.experiment.recipe import BASELINE, RunRecipe


@dataclass(frozen=True)
class Student:
    """A model trained on real text, or on real and synthetic text."""

    arm: str
    ratio: float  # 0 for the baseline
    seed: int

    @property
    def method(self) -> str:
        """Return the name under which `cdgen compare` joins the seeds: SERIES@X, or baseline."""
        return f"{self.arm}@{self.ratio:g}" if self.ratio else self.arm

    @property
    def name(self) -> str:
        ratio = f"-{self.ratio:g}" if self.ratio else ""
        return f"{self.arm}{ratio}-seed{self.seed}"


def students_of(recipe: RunRecipe) -> Iterator[Student]:
    """Yield the baselines, then each arm's students, ratio by ratio and seed by seed."""
    yield from (Student(BASELINE, 0.0, seed) for seed in recipe.seeds)
    for name, arm in recipe.arms.items():
        for ratio in recipe.ratios_of(arm):
            yield from (Student(name, ratio, seed) for seed in recipe.seeds)


def result_files(scores: Path) -> list[Path]:
    """Return the results.json of a student: one, or one for each of its checkpoints."""
    return sorted({*scores.glob("results.json"), *scores.glob("*/results.json")})


@dataclass(frozen=True)
class Layout:
    """The paths of an experiment in the folder `out`."""

    out: Path

    @property
    def recipe(self) -> Path:
        return self.out / "recipe.json"

    @property
    def lock(self) -> Path:
        return self.out / ".lock"

    @property
    def stages_lock(self) -> Path:
        """The lock of the stages at work, which a run that was killed leaves to them."""
        return self.out / ".stages.lock"

    @property
    def stages(self) -> Path:
        return self.out / "stages.json"

    @property
    def base(self) -> Path:
        return self.out / "base"

    @property
    def tasks(self) -> Path:
        return self.out / "tasks"

    @property
    def compare(self) -> Path:
        return self.out / "compare"

    def smaller(self, name: str) -> Path:
        return self.out / "smaller" / name

    def pair(self, gap: str) -> Path:
        return self.out / "pairs" / f"gap-{gap}.yaml"

    def corpus(self, arm: str) -> Path:
        return self.out / "corpora" / arm

    def measure(self, arm: str) -> Path:
        return self.out / "measures" / f"{arm}.json"

    def train_recipe(self, name: str) -> Path:
        return self.out / "recipes" / f"{name}.yaml"

    def student(self, student: Student, base_seed: int) -> Path:
        """Return the run of a student; the baseline with the base run's seed is that run."""
        if student.arm == BASELINE and student.seed == base_seed:
            return self.base
        return self.out / "students" / student.name

    def scores(self, student: Student) -> Path:
        return self.out / "eval" / student.name

    def log(self, stage: str) -> Path:
        return self.out / "logs" / f"{stage}.log"
