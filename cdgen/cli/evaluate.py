"""The commands that measure models and corpora."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cdgen.cli.completion import offered
from cdgen.eval.modes import ModeName, Select


def evaluate(
    model: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="Checkpoint folder, or a run's folder of checkpoints."),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of evaluation data in the BabyLM layout.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Results folder; tasks that it already has are not scored again."
        ),
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="More checkpoint folders.")
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Tasks by the names of their data folders, such as blimp_fast,reading, or"
            " NAME=blimp for a folder of another name in BLiMP's format [default: all zero-shot"
            " tasks].",
            show_default=False,
        ),
    ] = "",
    compat: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="Rules for ties, spans and WUG: default (a tie counts as a guess), babylm2025 or"
            " paper.",
            autocompletion=offered(ModeName),
        ),
    ] = "default",
    device: Annotated[
        str, typer.Option(help="cpu, cuda, or auto (cuda if there is a GPU).")
    ] = "auto",
) -> None:
    """Score checkpoints on the BabyLM tasks."""
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
        typer.Argument(
            metavar="RUN...",
            help="Results folders of one method, one per seed: DIR or NAME=DIR[,DIR...]. A single"
            " DIR: every result in it and below, side by side.",
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Name of a method [default: the first].", show_default=False)
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint that represents a run: validation (least validation loss), last, or"
            " paper (the best one for each task) [default: validation; paper for runs of"
            " --compat paper]",
            show_default=False,
            autocompletion=offered(Select),
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for compare.md, compare.json and figures.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Compare evaluated methods with a baseline.

    Print the paper's table. With --out, also write it to a folder, with figures. Given one folder,
    list every result in it.
    """
    if len(runs) == 1 and "=" not in runs[0] and not (baseline or select or out):
        _overview(Path(runs[0]), as_json)
        return
    from cdgen.eval.report.compare import make_report, write_report
    from cdgen.eval.report.methods import parse_method, parse_select

    rule = parse_select(select) if select else None
    report = make_report([parse_method(text) for text in runs], baseline, rule)
    typer.echo(json.dumps(report.fields(), indent=2) if as_json else report.markdown(), nl=as_json)
    if out:
        write_report(report, out)


def _overview(folder: Path, as_json: bool) -> None:
    from cdgen.eval.report.overview import overview, results_below

    found = results_below(folder)
    typer.echo(json.dumps(found, indent=2) if as_json else overview(found), nl=as_json)


def measure(
    corpus: Annotated[
        Path, typer.Argument(help="Corpus of cdgen generate, or other text as for --prompts.")
    ],
    training: Annotated[
        list[Path] | None, typer.Option(help="Training text; n-grams that it lacks count as novel.")
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint that measures perplexity; choose one outside the pair, or the corpus's"
            " GOOD, which shows its plausible sets and how often truncation acted, too."
        ),
    ] = None,
    bad: Annotated[
        str | None,
        typer.Option(
            help="The corpus's BAD as in `cdgen generate --bad`, if top-p or min-p truncated."
        ),
    ] = None,
    pair: Annotated[
        Path | None,
        typer.Option(
            help="File of cdgen train --select-pair: its GOOD is the judge, and its BAD the BAD"
            " unless --bad names another."
        ),
    ] = None,
    text_column: Annotated[
        str,
        typer.Option(help="Column that holds the text of other JSON and Parquet files, or a.b."),
    ] = "text",
    device: Annotated[str, typer.Option(help="Device of the judge: cpu, cuda or auto.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="File to write the numbers to, as JSON.")] = None,
) -> None:
    """Measure a corpus: diversity, repetition, novelty, perplexity."""
    from cdgen.checkpoints.pair_file import resolve_pair
    from cdgen.device import choose_device
    from cdgen.errors import UsageError
    from cdgen.eval.measure import measure_corpus, summary_lines
    from cdgen.storage import canonical_json, make_folder, write_atomic

    if pair and judge:
        raise UsageError("--judge: not with --pair, whose GOOD is the judge")
    if pair:
        judge, pairs_bad = resolve_pair(pair)
        bad = bad or pairs_bad
    found = measure_corpus(corpus, training or [], judge, choose_device(device), text_column, bad)
    typer.echo("\n".join(summary_lines(found)))
    if out:
        make_folder(out.parent)
        write_atomic(out, canonical_json(found))
