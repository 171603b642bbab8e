"""The command line. Nothing here imports torch, so that `cdgen --help` answers at once."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from cdgen.cli import corpus, doctor, evaluate, experiment, inspect, pages, status, train
from cdgen.errors import Interrupted, report
from cdgen.shown_text import protect_terminal

_TYPER_INTERRUPTED = 130  # a typer app returns this on Ctrl-C instead of raising

app = typer.Typer(
    name="cdgen",
    help="Write synthetic pre-training corpora by contrasting two language models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Write synthetic pre-training corpora by contrasting two language models."""


app.command()(experiment.run)
app.command()(pages.report)
app.command()(corpus.generate)
app.command()(status.status)
app.command()(inspect.inspect)
app.command()(corpus.verify)
app.command()(corpus.finalize)
app.command()(train.train)
app.command("eval")(evaluate.evaluate)
app.command()(evaluate.compare)
app.command()(evaluate.measure)
app.command()(doctor.doctor)


def run(command: Callable[[], Any]) -> int:
    """Run `command`; print any exception in a line or two, and return the exit code."""
    try:
        if command() == _TYPER_INTERRUPTED:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        kept = "what was finished is kept. Run the same command again to resume."
        return report(Interrupted(f"interrupted; {kept}"))
    except TyperException as error:  # unknown flags, and values of the wrong type
        text = error.format_message()
        is_help = text.startswith("Usage:")  # `cdgen` without arguments
        print(text if is_help else f"cdgen: {text} (see --help)", file=sys.stderr)
        return 2
    except Exception as error:
        return report(error)
    return 0


def execute(command: Callable[[], Any]) -> NoReturn:
    """Run `command` and exit with its exit code."""
    # Threads that wait for each other spin for some microseconds, then sleep. This must be set
    # before torch loads its OpenMP runtime; the user's own setting wins (docs/decisions.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    protect_terminal()
    sys.exit(run(command))


def main() -> None:
    """Run the `cdgen` command."""
    # Otherwise Python looks through the million objects of torch for garbage before it ends, which
    # is a sixth of a run of one token.
    atexit.register(gc.freeze)
    execute(lambda: app(standalone_mode=False))
