"""`cdgen doctor`: what a bug report needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    """Print what a bug report needs, and test every kernel against its reference.

    That takes some seconds, on a GPU longer, because kernels are compiled. Exit code 0 if all is
    well, 1 if a kernel differs from its reference or none can run.
    """
    import json

    from cdgen.doctor import examine, lines
    from cdgen.errors import CdgenError

    facts = examine(Path.cwd())
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(lines(facts)))
    if facts["problems"]:
        raise CdgenError("; ".join(facts["problems"]))
