"""`cdgen inspect`: what both models say of each token of a text or of a row."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdgen.cli.options import Alpha, Device, MinP, Temperature, TopK, TopP, option
from cdgen.errors import UsageError

if TYPE_CHECKING:
    from cdgen.inspection.inspected import Inspected

# Settings that the plan of a corpus holds.
_OF_A_TEXT = (
    *("contrast", "alpha", "temperature", "top_k", "top_p", "min_p", "masked_score"),
    *("bos", "seed", "dtype", "device"),
)


def inspect(
    subject: Annotated[
        str, typer.Argument(metavar="TEXT|CORPUS", help="A text, or with --row a corpus folder.")
    ],
    row: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Inspect the row of the corpus whose sequence_id is N.", min=0
        ),
    ] = None,
    good: Annotated[
        Path | None,
        option(
            "good",
            "Checkpoint folder of GOOD; a corpus knows only its name.",
        ),
    ] = None,
    bad: Annotated[
        str | None,
        option("bad", "BAD: a checkpoint folder, layers:N, window:N, dropout:P or none."),
    ] = None,
    pair: Annotated[
        Path | None,
        typer.Option(help="File of cdgen train --select-pair: names GOOD and BAD."),
    ] = None,
    contrast: Annotated[
        float | None, option("contrast", "Strength lambda of the contrast.")
    ] = None,
    alpha: Alpha = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    masked_score: Annotated[
        float | None,
        option(
            "masked_score", "Score of the removed tokens, in nats, instead of never drawing them."
        ),
    ] = None,
    bos: Annotated[str | None, option("bos", "BOS before the text: auto, always or never.")] = None,
    seed: Annotated[int | None, option("seed", "Seed of the noise.")] = None,
    dtype: Annotated[str | None, option("dtype", "Number format of the weights.")] = None,
    device: Device = None,
    table: Annotated[
        bool, typer.Option("--table", help="Print the facts of every token below the text.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that opens in any browser.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the facts as JSON, and nothing else.")
    ] = False,
) -> None:
    """Show what the contrast does to a text, token by token.

    Each token has its log-probabilities under GOOD and BAD, the size of the plausible set, its
    rank, and the tokens that vanilla, plausible-only and CD would have drawn there with the same
    noise. With --row, the text is a row of a corpus, and the corpus's plan holds the settings.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    settings = {name: value for name, value in given.items() if name in _OF_A_TEXT}
    found = _inspect(subject, row, _models(good, bad, pair), settings)
    if html:
        from cdgen.inspection.page import write_page

        write_page(found, html)
    _print(found, table, json, html)


def _models(good: Path | None, bad: str | None, pair: Path | None) -> dict[str, Any]:
    """Return --good and --bad, from the pair file where they are not given."""
    from cdgen.checkpoints.pair_file import resolve_pair

    if pair:
        pairs_good, pairs_bad = resolve_pair(pair)
        return {"good": good or pairs_good, "bad": bad or pairs_bad}
    return {"good": good, "bad": bad}


def _inspect(
    subject: str, row: int | None, models: dict[str, Any], settings: dict[str, Any]
) -> Inspected:
    """Raises UsageError for a corpus without --row, or settings that a corpus's plan holds."""
    from cdgen.corpus.folder import CorpusFolder
    from cdgen.inspection.inspected import inspect_row, inspect_text

    if row is None and os.path.isdir(subject) and CorpusFolder(Path(subject)).has_plan:
        raise UsageError(f"{subject} is a corpus: say which of its rows with --row N")
    if row is None:
        return inspect_text(subject, models | settings)
    if settings:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in settings)
        raise UsageError(f"{flags}: not with --row, because the plan of the corpus holds them")
    return inspect_row(Path(subject), row, **models)


def _print(found: Inspected, with_table: bool, as_json: bool, page: Path | None) -> None:
    """Print to stdout; notes go to stderr."""
    from rich.console import Console

    from cdgen.inspection.facts import facts_of
    from cdgen.inspection.terminal import print_inspected
    from cdgen.shown_text import bare
    from cdgen.storage import canonical_json

    for note in found.notes:
        typer.echo(note, err=True)
    if as_json:
        typer.echo(canonical_json(facts_of(found)).decode(), nl=False)
        return
    print_inspected(found, Console(file=bare(sys.stdout)), with_table)
    if page:
        typer.echo(str(page))
