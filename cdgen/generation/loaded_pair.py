"""A pair for programs and notebooks: `cdgen.load_pair`, and rows that stay in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from pydantic import ValidationError

from cdgen.checkpoints.bad_source import BadSource, parse_bad
from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan
from cdgen.corpus.rows import Row, columns_of
from cdgen.errors import UsageError
from cdgen.generation.config import SequenceConfig
from cdgen.generation.given_prompts import Prompts, token_ids
from cdgen.generation.inputs import open_with_notes, require_context
from cdgen.packages import require_package
from cdgen.settings import problems

if TYPE_CHECKING:
    from datasets import Dataset

    from cdgen.generation.build_engine import Engine

# Fields of a plan that change nothing in an engine.
_OF_THE_PROMPTS: Mapping[str, Any] = {
    "prompts": {"source_sha256", "tokens_sha256", "count"},
    "num_sequences": True,
    "sequences_per_prompt": True,
    "range_size": True,
}


class GenerationSettings(TypedDict, total=False):
    """The keyword arguments of `LoadedPair.generate`: flags of `cdgen generate` with the same
    meanings and defaults."""

    strategy: Literal["cd", "vanilla", "plausible"]
    contrast: float
    alpha: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    masked_score: float | None
    bos: Literal["auto", "always", "never"]
    prompt_tokens: int
    num_sequences: int  # of each prompt
    max_new_tokens: int
    on_eos: Literal["stop", "continue"]
    seed: int
    slots: int | Literal["auto"]
    logprobs: bool


def load_pair(
    good: str | os.PathLike[str],
    bad: str | os.PathLike[str] = "none",
    *,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    device: str = "auto",
) -> LoadedPair:
    """Open GOOD and BAD, and check them against each other.

    `good` is a checkpoint folder; `bad` is one too, or `layers:N`, `window:N`, `dropout:P` or
    `none`. `dtype`, `kv_dtype` and `device` are as for `cdgen generate`. The weights are read by
    the first `generate`. Raises ModelError if a checkpoint cannot be used or the two do not fit
    together, UsageError for other values.
    """
    return LoadedPair(
        Path(good), os.fspath(bad), {"dtype": dtype, "kv_dtype": kv_dtype, "device": device}
    )


class LoadedPair:
    """GOOD and BAD, ready to continue prompts in memory.

    The engine of the last finished run is kept and used again by a run that differs in its prompts
    only. Runs may overlap; each then has an engine of its own.
    """

    def __init__(self, good: Path, bad: str, placement: dict[str, Any]) -> None:
        self.good, self.bad, self._placement = good, bad, placement
        strategy = "vanilla" if bad == "none" else "cd"
        _checked({**self._models, "strategy": strategy})
        self._opened = {bad: open_with_notes(good, parse_bad(bad))}
        self._idle: tuple[dict[str, Any], Engine] | None = None

    def generate(
        self, prompts: Prompts, *, progress: bool = True, **settings: Unpack[GenerationSettings]
    ) -> Iterator[Row]:
        """Continue every prompt, and yield the rows in the order of their sequence ids.

        The tokens are those that `cdgen generate` writes for the same prompts and settings. A text
        is a document, of which the first `prompt_tokens` tokens are the prompt; a list of token ids
        is a prompt as it is, BOS included. The prompts are read at once, and sequences are
        generated as rows are asked for. `progress` shows the rate on stderr. A row that could not
        be sampled has the finish reason "quarantined".

        Raises UsageError for settings or prompts that cannot be used, ModelError if the models do
        not fit into memory.
        """
        return self._rows(self._planned(prompts, settings), progress)

    def generate_dataset(
        self, prompts: Prompts, *, progress: bool = True, **settings: Unpack[GenerationSettings]
    ) -> Dataset:
        """Return the rows of `generate` as a dataset with the columns of a corpus."""
        require_package("datasets", "")
        from datasets import Dataset, Features, List, Value

        planned = self._planned(prompts, settings)
        types: dict[str, Any] = {
            name: Value(kind) for name, kind in columns_of(planned.plan).items()
        }
        types["tokens"] = List(types["tokens"])
        rows = (asdict(row) for row in self._rows(planned, progress))
        chosen = [{name: row[name] for name in types} for row in rows]
        return Dataset.from_list(chosen, features=Features(types))

    @property
    def _models(self) -> dict[str, Any]:
        return {"good": self.good, "bad": self.bad, **self._placement}

    def _planned(self, prompts: Prompts, settings: GenerationSettings) -> _Planned:
        from cdgen.generation.memory_run import memory_plan

        config = _checked({**settings, **self._models})
        pair = self._pair(self.bad if config.strategy == "cd" else "none")
        ids = token_ids(prompts, config, pair)
        longest = max(config.prompt_tokens, *map(len, ids))
        config = config.model_copy(update={"prompt_tokens": longest})
        require_context(config, pair)
        return _Planned(memory_plan(config, pair, ids), pair, ids, config.slots == "auto")

    def _pair(self, bad: str) -> Pair:
        if bad not in self._opened:  # GOOD alone, which may have more tokens than the two share
            self._opened[bad] = open_with_notes(self.good, BadSource("none"))
        return self._opened[bad]

    def _rows(self, planned: _Planned, progress: bool) -> Iterator[Row]:
        from cdgen.generation.memory_run import MemoryRun

        deciding = planned.plan.model_dump(exclude={**_OF_THE_PROMPTS})
        plan, engine = self._take_engine(planned, deciding)
        try:
            run = MemoryRun(plan, planned.pair, planned.prompts, engine)
            yield from run.rows(progress=progress)
        finally:
            self._idle = deciding, engine

    def _take_engine(self, planned: _Planned, deciding: dict[str, Any]) -> tuple[Plan, Engine]:
        """Return the idle engine if it fits, else a new one. No other run gets it until it is given
        back."""
        from cdgen.generation.build_engine import fitting_engine

        idle, self._idle = self._idle, None
        if idle and idle[0] == deciding:
            return planned.plan, idle[1]
        del idle  # two engines might not fit into memory
        return fitting_engine(planned.plan, planned.pair, planned.may_shrink, ranges_too=True)


@dataclass(frozen=True)
class _Planned:
    """A run that has not begun."""

    plan: Plan
    pair: Pair  # the models that it needs
    prompts: list[list[int]]  # token ids
    may_shrink: bool  # the user gave no number of slots


def _checked(values: dict[str, Any]) -> SequenceConfig:
    """Return the settings. Raises UsageError about every one that is not valid."""
    try:
        return SequenceConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError("; ".join(problems(error))) from error
