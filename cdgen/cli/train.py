"""`cdgen train`: a run, a pair of finished runs, the word budget of a whole experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cdgen.errors import UsageError


def train(
    out: Annotated[
        Path,
        typer.Option(help="Run folder; an unfinished run goes on. With --select-pair: a file."),
    ],
    config: Annotated[Path | None, typer.Option(help="A recipe, recipes/*.yaml.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the recipe's sources.")] = None,
    select_pair: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Train nothing: choose GOOD and BAD in finished runs."),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="More runs to choose from.")
    ] = None,
    gap: Annotated[
        float | None,
        typer.Option(
            help="How far BAD is above GOOD at least, nats per token [default: 0.5].",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Train nothing: count the words that the student in RUN, its corpora and the"
            " models of --pair have read.",
        ),
    ] = None,
    pair: Annotated[
        list[Path] | None,
        typer.Option(help="Of --budget: the pair file of each corpus's models.", metavar="FILE"),
    ] = None,
) -> None:
    """Train a model; or choose a GOOD/BAD pair among runs; or count what an experiment read."""
    of_pair, of_budget = {"RUN": more, "--gap": gap}, {"--pair": pair}
    of_run = {"--config": config, "--data": data}
    if select_pair:
        _refuse({**of_run, **of_budget, "--budget": budget}, "--select-pair")
        _select_pair([*select_pair, *(more or [])], 0.5 if gap is None else gap, out)
        return
    if budget:
        _refuse({**of_run, **of_pair}, "--budget")
        _budget(budget, pair or [], out)
        return
    _refuse({**of_pair, **of_budget}, "--config, only with --select-pair or --budget")
    if config is None or data is None:
        missing = "--config" if config is None else "--data"
        raise UsageError(f"{missing} is missing: give it, or choose a pair with --select-pair RUN")
    from cdgen.train.loop import train_recipe

    train_recipe(config, data, out)


def _refuse(given: Mapping[str, object], mode: str) -> None:
    """Raises UsageError for what belongs to another use of the command."""
    for name, value in given.items():
        if value not in (None, []):
            raise UsageError(f"{name} does not go with {mode}; leave it out")


def _select_pair(runs: list[Path], gap: float, out: Path) -> None:
    from cdgen.train.selection import select_pair, write_pair_file

    selection = select_pair(runs, gap)
    write_pair_file(selection, out)
    for note in selection.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{selection.table()}\nnext: cdgen generate --pair {out}")


def _budget(student: Path, pairs: list[Path], out: Path) -> None:
    from cdgen.train.budget import write_budget
    from cdgen.train.run_budget import budget_of_pairs

    found = budget_of_pairs(student, pairs)
    write_budget(found, out)
    typer.echo(found.markdown(), nl=False)
