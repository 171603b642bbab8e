"""Means over the tokens of an inspected sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cdgen.inspection.inspected import Inspected
from cdgen.inspection.strategies import STRATEGIES


@dataclass(frozen=True)
class Summary:
    """Means over what follows the prompt. NaN where nothing is known."""

    tokens: int
    good_logprob: float  # nats
    bad_logprob: float
    entropy: float
    plausible: float  # size of the set
    in_plausible_set: float  # share of the tokens
    same_draws: dict[str, float]  # by strategy: share of the tokens that it would have drawn too


def summary_of(found: Inspected) -> Summary:
    own = [record for record in found.positions if not found.is_prompt(record.index)]
    return Summary(
        tokens=len(own),
        good_logprob=_mean([record.good_logprob for record in own]),
        bad_logprob=_mean([r.bad_logprob for r in own if r.bad_logprob is not None]),
        entropy=_mean([record.entropy for record in own]),
        plausible=_mean([record.plausible for record in own]),
        in_plausible_set=_mean([record.is_plausible for record in own]),
        same_draws={
            name: _mean([getattr(record.drawn, name) == record.token for record in own])
            for name in found.strategy_names
        },
    )


def summary_lines(summary: Summary) -> list[str]:
    """Return the means as sentences without a full stop."""
    if not summary.tokens:
        return ["Nothing follows the prompt"]
    means = {"GOOD": f"{summary.good_logprob:z.2f}"}
    if not math.isnan(summary.bad_logprob):  # there is a BAD
        means["BAD"] = f"{summary.bad_logprob:z.2f}"
        means["difference"] = f"{summary.good_logprob - summary.bad_logprob:+z.2f}"
    means["entropy"] = f"{summary.entropy:z.2f}"
    same = (f"{STRATEGIES[name]} {share:.0%}" for name, share in summary.same_draws.items())
    return [
        f"{summary.tokens} tokens, means in nats:"
        f" {', '.join(f'{name} {mean}' for name, mean in means.items())}",
        f"Plausible sets have {summary.plausible:.1f} tokens in the mean and hold"
        f" {summary.in_plausible_set:.0%} of the text",
        f"The same token with the same noise: {', '.join(same)}",
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
