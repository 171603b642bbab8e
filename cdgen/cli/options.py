"""Options that several commands take, each with the default and the choices of its setting."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cdgen.cli.completion import offered
from cdgen.generation.config import GenerateConfig


def option(name: str, text: str) -> Any:
    """Return the flag of a `GenerateConfig` field. Its help shows the default, which the field has.

    The parameter itself defaults to None, so that a flag that is not given leaves --config alone.
    """
    field = GenerateConfig.model_fields[name]
    default = None if field.is_required() else field.get_default()
    shown = "" if default is None else f" [default: {default}]"
    complete = offered(field.annotation)
    return typer.Option(help=text + shown, show_default=False, autocompletion=complete)


Alpha = Annotated[
    float | None,
    option("alpha", "A token is plausible if p_GOOD is at least alpha times the largest p_GOOD."),
]
Temperature = Annotated[float | None, option("temperature", "Sampling temperature; 0 is greedy.")]
TopK = Annotated[int | None, option("top_k", "Sample from the k best tokens; 0 is off.")]
TopP = Annotated[
    float | None,
    option("top_p", "Sample from the smallest set of best tokens with probability p; 1 is off."),
]
MinP = Annotated[
    float | None,
    option("min_p", "Sample from tokens at least p times as likely as the best; 0 is off."),
]
Device = Annotated[str | None, option("device", "cpu, cuda, or auto (cuda if there is a GPU).")]
