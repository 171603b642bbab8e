"""The commands that measure models and corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="A checkpoint folder, or a run's folder of checkpoints."),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Evaluation data in the BabyLM layout.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Results; what is there already is not repeated.")
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="More checkpoint folders.")
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Data folders, such as blimp_fast,reading [default: all zero-shot ones].",
            show_default=False,
        ),
    ] = "",
    compat: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="babylm2025 or paper: their rules for ties, spans and WUG. Else ties count half.",
        ),
    ] = "default",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Score checkpoints on the BabyLM tasks, all in one process."""
    from cdgen.eval.run import EvalConfig, evaluate
    from cdgen.settings import validated

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    flags = {"models": [*model, *(more or [])], "data": data, "out": out, "tasks": names}
    outcome = evaluate(validated(EvalConfig, {**flags, "compat": compat, "device": device}))
    typer.echo((out / "results.md").read_text(), nl=False)
    for task, reason in outcome.skipped.items():
        typer.echo(f"skipped {task}: {reason}")
    failures = [type(error)(f"{name}: {error}") for name, error in outcome.failed.items()]
    for failure in failures[:-1]:
        typer.echo(f"cdgen: {failure}", err=True)
    if failures:
        raise failures[-1]


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="DIR or NAME=DIR[,DIR...] of cdgen eval, per seed."),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="A method's name [default: the first].", show_default=False)
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="Which checkpoint speaks for a run: that of least validation loss, the last one,"
            " or, as in the paper, each task's best. validation | last | paper"
            " [default: validation; paper for runs of --compat paper]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for compare.md, compare.json and figures.png.")
    ] = None,
) -> None:
    """Compare evaluated methods with a baseline: the paper's table and figures."""
    from cdgen.eval.report.compare import make_report, write_report
    from cdgen.eval.report.methods import parse_method, parse_select

    rule = parse_select(select) if select else None
    report = make_report([parse_method(text) for text in runs], baseline, rule)
    typer.echo(report.markdown(), nl=False)
    if out:
        write_report(report, out)


def measure(
    corpus: Annotated[Path, typer.Argument(help="A corpus of cdgen generate, or text files.")],
    training: Annotated[
        list[Path] | None, typer.Option(help="Training text: count n-grams that it lacks.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="A model that had no part in it: perplexity of the text.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for the judge.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
) -> None:
    """Measure a corpus: diversity, repetition, novelty, lengths, perplexity."""
    from cdgen.device import choose_device
    from cdgen.eval.measure import measure_corpus, summary_lines
    from cdgen.storage import canonical_json, make_folder, write_atomic

    found = measure_corpus(corpus, training or [], judge, choose_device(device))
    typer.echo("\n".join(summary_lines(found)))
    if out:
        make_folder(out.parent)
        write_atomic(out, canonical_json(found))
