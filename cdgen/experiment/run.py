"""`cdgen run`: the paper's experiment in one command, stage by stage, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cdgen import __version__
from cdgen.errors import UsageError
from cdgen.experiment.layout import Layout
from cdgen.experiment.load import load_run_recipe
from cdgen.experiment.record import Experiment, write_experiment
from cdgen.experiment.runner import Runner, last_line
from cdgen.experiment.stages import Plan, Stage
from cdgen.experiment.view import View
from cdgen.storage import lock, make_folder


@dataclass(frozen=True)
class RunConfig:
    """The arguments of `cdgen run`."""

    recipe: Path
    data: Path
    out: Path
    only: str | None = None  # a stage, or a kind of stages such as `corpus`
    first: str | None = None  # the stage to begin with
    jobs: int = 1


def run_experiment(config: RunConfig) -> None:
    """Run every stage that is not done. Raises UsageError for a recipe or data that cannot be used,
    PlanMismatch if `out` holds another experiment, StorageError if another run writes into it,
    Interrupted on a signal, and the error of the first stage that failed."""
    layout = Layout(config.out)
    busy = f"another cdgen run is at work in {config.out}: wait for it, or name another --out"
    make_folder(config.out)
    with lock(layout.lock, busy):
        stages = prepare(config)
        chosen = choose(stages, config)
        view = View(chosen, lambda stage: last_line(layout.log(stage.name)))
        Runner(chosen, layout, config.jobs, view).run()


def prepare(config: RunConfig) -> list[Stage]:
    """Check the recipe, record it in OUT/recipe.json and return its stages."""
    recipe = load_run_recipe(config.recipe, config.data)
    layout = Layout(config.out)
    again = ("run", str(config.recipe), "--data", str(config.data), "--out", str(config.out))
    stages = Plan(recipe, config.data, layout, again).stages()
    experiment = Experiment(recipe=recipe, data=config.data.absolute(), cdgen_version=__version__)
    write_experiment(experiment, config.out)
    return stages


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
