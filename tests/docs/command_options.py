"""The options of every command, as tables in docs/commands/NAME.md.

    python tests/docs/command_options.py    writes them into the pages

A page without a table gets one at its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from cdgen.cli.app import app

PAGES = Path(__file__).resolve().parents[2] / "docs/commands"
BEGIN, END = "<!-- options: make docs-options writes them -->", "<!-- end of the options -->"
_HEADINGS = ("| option | |", "|---|---|")


def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def options_table(name: str, command: Any) -> str:
    """Return the usage of a command and a table of its arguments and options."""
    context = command.make_context(f"cdgen {name}", [], resilient_parsing=True)
    usage = " ".join(command.get_usage(context).split())
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [
        f"| `{_one_line(flag)}` | {_one_line(text).replace('<', '&lt;')} |"
        for flag, text in filter(None, records)
        if flag != "--help"
    ]
    return "\n".join([f"`{usage.removeprefix('Usage: ')}`", "", *_HEADINGS, *rows])


def _one_line(text: str) -> str:
    """Return text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def with_options(page: str, table: str) -> str:
    """Return the text of a page with `table` as its options."""
    before, _, rest = page.partition(BEGIN)
    if not rest:
        before = f"{page.rstrip()}\n\n## Options\n"
    after = rest.partition(END)[2] or "\n"
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    for name, command in commands().items():
        path = PAGES / f"{name}.md"
        path.write_text(with_options(path.read_text(), options_table(name, command)))


if __name__ == "__main__":
    main()
