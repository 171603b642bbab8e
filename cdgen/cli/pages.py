"""`cdgen report`: the page of a corpus, of two side by side, or of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cdgen.page.parts import Page


def report(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Corpus, finished or not, or folder of cdgen run.")
    ],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="OUT2", help="Second corpus, to be shown beside the first."),
    ] = None,
    training: Annotated[
        list[Path] | None,
        typer.Option(help="Training text; n-grams of a corpus that it lacks count as novel."),
    ] = None,
    good: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="GOOD of the corpora, if its folder has moved."),
    ] = None,
    bad: Annotated[
        str | None,
        typer.Option(
            help="BAD as in `cdgen generate --bad`, if it has moved or there was none. none:"
            " read no model."
        ),
    ] = None,
    pair: Annotated[
        Path | None,
        typer.Option(help="File of cdgen train --select-pair, in place of --good and --bad."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Page of the corpora [default: OUT/report.html]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one HTML page that opens from disk.

    Of a corpus, or two side by side: plan, lengths, plausible sets, diversity and samples, coloured
    by what GOOD and BAD say of them where both models are found. Of an experiment: what came out;
    then report.md, results.json and figures are written beside it.
    """
    from cdgen.corpus.folder import CorpusFolder
    from cdgen.errors import UsageError
    from cdgen.experiment.layout import Layout

    options = (other, training, good, bad, pair, page)
    if CorpusFolder(out).has_plan:
        path = page or out / "report.html"
        folders = [out, other] if other else [out]
        _say(_corpus_page(folders, training or [], good, bad, pair, path), path)
    elif not Layout(out).recipe.is_file():
        raise UsageError(f"{out} holds neither a corpus nor an experiment of cdgen run")
    elif any(options):
        raise UsageError(f"{out} is an experiment: its page takes no other argument")
    else:
        from cdgen.experiment.report.page import write_page

        _say(write_page(out), out / "report.html")


def _corpus_page(
    corpora: list[Path],
    training: list[Path],
    good: Path | None,
    bad: str | None,
    pair: Path | None,
    path: Path,
) -> Page:
    from cdgen.checkpoints.pair_file import resolve_pair
    from cdgen.errors import UsageError
    from cdgen.report.page import ReportConfig, write_report

    if pair and (good or bad):
        raise UsageError("--pair names GOOD and BAD: not with --good or --bad")
    if pair:
        good, bad = resolve_pair(pair)
    return write_report(ReportConfig(corpora, training, good, bad), path)


def _say(page: Page, path: Path) -> None:
    typer.echo("\n".join(page.answer))
    for warning in page.warnings:
        typer.echo(f"cdgen: {warning}", err=True)
    typer.echo(f"{path}")
