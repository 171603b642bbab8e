"""`cdgen train`: train a model, choose a pair, or count the words of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cdgen.errors import UsageError

_GAP = 0.5  # nats per token


def train(
    out: Annotated[
        Path,
        typer.Option(
            help="Run folder; an unfinished run in it is continued. With --select-pair: pair file"
            " to write. With --budget: folder for the count."
        ),
    ],
    config: Annotated[Path | None, typer.Option(help="Recipe, such as recipes/demo.yaml.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds the recipe's sources.")
    ] = None,
    select_pair: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Train nothing: choose GOOD and BAD among finished runs."),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="More runs to choose from.")
    ] = None,
    gap: Annotated[
        float | None,
        typer.Option(
            help="Smallest difference in validation loss between BAD and GOOD, in nats per token"
            f" [default: {_GAP}].",
            show_default=False,
        ),
    ] = None,
    bad: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:N",
            help="With --select-pair: BAD is made of GOOD: layers:N, window:N or dropout:P, as for"
            " cdgen generate. Default: an earlier step of GOOD's run.",
        ),
    ] = None,
    budget: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Train nothing: count the words read by the student in RUN, by its corpora and by"
            " the models of --pair.",
        ),
    ] = None,
    pair: Annotated[
        list[Path] | None,
        typer.Option(
            help="With --budget: the pair file of the models of each corpus.", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Train a model, choose a pair, or count an experiment's words.

    With --select-pair, choose GOOD and BAD among finished runs. With --budget, count the words that
    a student, its corpora and their models have read.
    """
    of_pair, of_budget = {"RUN": more, "--gap": gap, "--bad": bad}, {"--pair": pair}
    of_run = {"--config": config, "--data": data}
    if select_pair:
        _refuse({**of_run, **of_budget, "--budget": budget}, "--select-pair")
        _select_pair([*select_pair, *(more or [])], _GAP if gap is None else gap, bad, out)
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
    """Raise UsageError if an option of another use of the command was given."""
    for name, value in given.items():
        if value not in (None, []):
            raise UsageError(f"{name} does not go with {mode}; leave it out")


def _select_pair(runs: list[Path], gap: float, bad: str | None, out: Path) -> None:
    from cdgen.train.pair.selection import select_pair, write_pair_file

    selection = select_pair(runs, gap, bad)
    write_pair_file(selection, out)
    for note in selection.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{selection.table()}\nnext: cdgen generate --pair {out}")


def _budget(student: Path, pairs: list[Path], out: Path) -> None:
    from cdgen.train.budget import write_budget
    from cdgen.train.readings import budget_of_pairs

    found = budget_of_pairs(student, pairs)
    write_budget(found, out)
    typer.echo(found.markdown(), nl=False)
