"""`cdgen run --dry-run`: a shell script of the stages, each as its command, with what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cdgen.experiment.costs import Cost, Rates, seconds_of
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.stages import Stage, shown_command
from cdgen.progress import duration


def script(
    stages: Sequence[Stage],
    costs: Mapping[str, Cost],
    recipe: RunRecipe,
    rates: Rates,
    jobs: int,
) -> Iterator[str]:
    """Yield the lines. Notes are comments, so that the whole can be run by a shell."""
    yield f"# {recipe.name}: {len(stages)} stages. Tokens, bytes and times are estimates, from"
    yield f"# {_rates(rates)}"
    left, size = 0.0, 0
    for stage in stages:
        cost = costs[stage.name]
        seconds = seconds_of(stage, cost, recipe.base, rates)
        done = stage.is_done()
        left += 0.0 if done or seconds is None else seconds
        size += 0 if done else cost.bytes
        tokens = f"{cost.tokens:,} tokens, " if cost.tokens else ""
        time = "of unknown time" if seconds is None else f"about {duration(seconds)}"
        state = "done" if done else time
        yield f"\n# {stage.name}: {tokens}{_bytes(cost.bytes)}{state}"
        yield shown_command(stage)
    share = f", or {duration(left / jobs)} with --jobs {jobs}" if jobs > 1 else ""
    yield f"\n# left: about {duration(left)} of computing{share}, {size / 1e9:.2f} GB of disk"


def _rates(rates: Rates) -> str:
    generation = f"{rates.generation:,.0f}" if rates.generation else "unknown"
    return (
        f"tokens/s: training {rates.training:,.0f}, generation {generation}, scoring"
        f" {rates.evaluation:,.0f}; {rates.start:.0f} s to begin a stage ({rates.machine})"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB, " if count >= 1e6 else ""
