"""The command line. Nothing here imports torch: `cdgen --help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from cdgen.cli import corpus, evaluate, train
from cdgen.errors import Interrupted, report

_TYPERS_INTERRUPT = 130  # what an app returns, rather than raises, on Ctrl-C

app = typer.Typer(
    name="cdgen",
    help="Write synthetic pre-training corpora by contrasting two language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write synthetic pre-training corpora by contrasting two language models."""


app.command()(corpus.generate)
app.command()(corpus.status)
app.command()(corpus.verify)
app.command()(corpus.finalize)
app.command()(train.train)
app.command("eval")(evaluate.evaluate)
app.command()(evaluate.compare)
app.command()(evaluate.measure)


def run(command: Callable[[], Any]) -> int:
    """Runs `command`; turns what it raises into a line or two and an exit code."""
    try:
        if command() == _TYPERS_INTERRUPT:
            kept = "what was finished is kept. Run the same command again to resume."
            print(f"cdgen: interrupted; {kept}", file=sys.stderr)
            return Interrupted.exit_code
    except TyperException as error:  # what typer itself refuses: flags and their types
        text = error.format_message()
        is_help = text.startswith("Usage:")  # `cdgen` alone
        print(text if is_help else f"cdgen: {text} (--help lists what there is)", file=sys.stderr)
        return 2
    except Exception as error:
        return report(error)
    return 0


def execute(command: Callable[[], Any]) -> NoReturn:
    """Ends the process as `run` says."""
    # Threads that wait for each other spin for some microseconds, then sleep. It must be said
    # before torch loads its OpenMP runtime; the user's own setting stands (docs/decisions.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    sys.exit(run(command))


def main() -> None:
    execute(lambda: app(standalone_mode=False))
