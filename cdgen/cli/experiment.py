"""`cdgen run`: the whole experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe, such as recipes/micro.yaml.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the recipe's text and tasks.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the experiment; one that was begun is continued.")
    ],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print every stage as the command that it is, with its cost, and run none.",
        ),
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Run one stage, or one kind, such as corpus."),
    ] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Begin with this stage.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stages to run side by side; they share the cores. [default: 1, with --ray as many"
            " as fit]",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|local|HOST:PORT",
            help="Run the stages on the nodes of a Ray cluster, which share the folders DATA and"
            " OUT.",
        ),
    ] = None,
    ray_cpus: Annotated[
        int, typer.Option(min=1, help="CPUs of a stage there, beside a GPU if nodes have them.")
    ] = 1,
) -> None:
    """Run an experiment: does synthetic text help a corpus?

    Train the base model, choose GOOD and BAD, write a corpus per arm, train students on real and
    synthetic text, evaluate and compare them. Run the same command again to continue.
    """
    from cdgen.experiment.run import RunConfig, run_experiment, show_plan

    config = RunConfig(recipe, data, out, only, first, jobs, ray, ray_cpus)
    if dry_run:
        for line in show_plan(config):
            typer.echo(line)
        return
    if left := run_experiment(config):
        typer.echo(f"done; {left} other stages are left")
        return
    typer.echo((out / "compare/compare.md").read_text(), nl=False)
    typer.echo(f"complete: {out / 'report.html'}")
