"""`cdgen run`: the paper's experiment in one command, stage by stage, resumable."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cdgen import __version__
from cdgen.errors import UsageError
from cdgen.experiment.checks import (
    require_disk,
    require_empty,
    require_no_way_out,
    require_same_experiment,
    require_same_text,
    require_usable,
    warnings,
)
from cdgen.experiment.costs import Cost, Rates, cost_of, task_tokens
from cdgen.experiment.dry_run import script
from cdgen.experiment.layout import Layout
from cdgen.experiment.load import load_run_recipe
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.record import Experiment, read_experiment, write_experiment
from cdgen.experiment.runner import Runner, last_line, threads_of_a_job
from cdgen.experiment.stages import Plan, Stage
from cdgen.experiment.student_recipes import write_recipe
from cdgen.experiment.view import View
from cdgen.generation.ray.cluster import connected, nodes, share_of
from cdgen.storage import lock


@dataclass(frozen=True)
class RunConfig:
    """The arguments of `cdgen run`."""

    recipe: Path
    data: Path
    out: Path
    only: str | None = None  # a stage, or a kind of stages such as `corpus`
    first: str | None = None  # the stage to begin with
    jobs: int | None = None  # 1, or as many as the Ray cluster has room for
    ray: str | None = None  # auto, local or HOST:PORT
    ray_cpus: int = 1  # of a stage there


def run_experiment(config: RunConfig) -> int:
    """Run every stage that is not done; return how many --only and --from leave to do.

    Raises UsageError for a recipe or data that cannot be used, PlanMismatch if `out` holds another
    experiment, StorageError if another run writes into it or the disk is too small, Interrupted on
    a signal, and the error class of the first stage that failed.
    """
    with _held(config.out):
        experiment, layout = _Prepared.of(config), Layout(config.out)
        chosen = choose(experiment.stages, config)
        require_disk(config.out, chosen, experiment.costs)
        experiment.record(config)
        view = View(chosen, lambda stage: last_line(layout.log(stage.name)))
        with connected(config.ray):
            share, jobs = None, config.jobs or 1
            if config.ray is not None:
                share = share_of(config.ray_cpus, "auto")
                jobs = config.jobs or sum(node.room(share) for node in nodes())
            Runner(chosen, layout, jobs, view, share).run()
        return sum(not stage.is_done() for stage in experiment.stages)


def show_plan(config: RunConfig) -> Iterator[str]:
    """Yield every stage as its command, with its cost. Writes OUT/recipe.json and the recipes that
    the commands name, and runs nothing. Raises the errors of `run_experiment` but the last two."""
    with _held(config.out):
        experiment = _Prepared.of(config)
        experiment.record(config)
    stages = choose(experiment.stages, config)
    jobs = config.jobs or 1
    rates = _rates(experiment.recipe, jobs)
    yield from script(stages, experiment.costs, experiment.recipe, rates, jobs)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Be the only `cdgen run` in `out`; leave no trace of a recipe that was refused."""
    there, layout = out.exists(), Layout(out)
    require_no_way_out(layout)
    busy = f"another cdgen run is at work in {out}: wait for it, or name another --out"
    with lock(layout.lock, busy):
        try:
            yield
        finally:
            if not layout.recipe.exists():
                layout.lock.unlink(missing_ok=True)
                if not there:
                    with suppress(OSError):  # not empty
                        out.rmdir()


@dataclass(frozen=True)
class _Prepared:
    """A recipe that was checked against its data and its folder."""

    recipe: RunRecipe
    stages: list[Stage]
    costs: dict[str, Cost]

    @classmethod
    def of(cls, config: RunConfig) -> _Prepared:
        layout = Layout(config.out)
        recipe, text = load_run_recipe(config.recipe, config.data, layout)
        again = ("run", str(config.recipe), "--data", str(config.data), "--out", str(config.out))
        if not layout.recipe.is_file():
            require_empty(config.out)
        require_usable(recipe, config.data, layout, text)
        plan = Plan(recipe, config.data, layout, again)
        stages = plan.stages()
        if layout.recipe.is_file():
            before = replace(plan, recipe=read_experiment(config.out).recipe)
            require_same_experiment(stages, recipe, before)
        if any(stage.recipe is not None and not stage.is_done() for stage in stages):
            require_same_text(recipe.base, config.data, layout)
        for warning in warnings(recipe, text):
            print(f"warning: {warning}", file=sys.stderr)
        judged = task_tokens(recipe, config.data, layout)
        costs = {stage.name: cost_of(stage, recipe, text, judged) for stage in stages}
        return cls(recipe, stages, costs)

    def record(self, config: RunConfig) -> None:
        """Write OUT/recipe.json and the recipes of all runs."""
        data = config.data.absolute()
        found = Experiment(recipe=self.recipe, data=data, cdgen_version=__version__)
        write_experiment(found, config.out)
        for stage in self.stages:
            if stage.recipe is not None and stage.recipe_file is not None:
                write_recipe(stage.recipe, stage.recipe_file)


def _rates(recipe: RunRecipe, jobs: int) -> Rates:
    """Return the rates that the recipe states, or else those of this machine."""
    if (stated := recipe.rates) is not None:
        return Rates(
            stated.training, stated.generation, stated.evaluation, stated.start, stated.machine
        )
    began = time.monotonic()
    from cdgen.experiment.rates import measure_rates

    start = time.monotonic() - began
    return measure_rates(recipe, threads_of_a_job(jobs), start)


def choose(stages: Sequence[Stage], config: RunConfig) -> list[Stage]:
    """Return the stages that --only and --from leave. Raises UsageError for an unknown name, or if
    what a stage needs is neither done nor among them."""
    chosen = list(stages)
    if config.first is not None:
        names = [stage.name for stage in stages]
        if config.first not in names:
            raise UsageError(f"--from {config.first}: {_known(stages)}")
        chosen = chosen[names.index(config.first) :]
    if config.only is not None:
        chosen = [s for s in chosen if config.only in (s.name, s.kind)]
        if not chosen:
            raise UsageError(f"--only {config.only}: {_known(stages)}")
    mine = {stage.name for stage in chosen}
    met = {s.name for s in stages if s.name not in mine and s.is_done()}
    lacking = {need for s in chosen if not s.is_done() for need in s.needs} - mine - met
    if lacking:
        raise UsageError(f"{', '.join(sorted(lacking))}: needed first, and not done")
    return [replace(s, needs=tuple(n for n in s.needs if n in mine)) for s in chosen]


def _known(stages: Sequence[Stage]) -> str:
    kinds = ", ".join(dict.fromkeys(stage.kind for stage in stages))
    return f"no such stage; expected a kind ({kinds}) or a name that --dry-run prints"
