"""The recipe of `cdgen run` (recipes/*-run.yaml and others), checked before anything is trained.

It reads like the section "Methods" of a paper: the base run, how GOOD and BAD are chosen, the arms,
the mixtures, the seeds and the tasks. A student differs from the base run in nothing but its seed
and the synthetic text that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from cdgen.experiment.bad_choice import parse_bad_choice, parse_step
from cdgen.train.config import ModelShape, Recipe, Seed

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PAPER_BATCH = 16  # sequences in a micro-batch of Ulm et al. 2025
# What `paper: true` stands for: where Ulm et al. 2025 chose otherwise than the defaults here.
_PAPER: dict[str, dict[str, Any]] = {
    "corpora": {"on_eos": "continue", "masked_score": -20.0},
    "mixture": {"rounding": "paper", "false_ends": True},
    "evaluation": {"checkpoint": "paper", "compat": "paper"},
}
BASELINE = "baseline"  # the arm that every experiment has: real text only


def _shares(ratios: tuple[float, ...]) -> tuple[float, ...]:
    if wrong := [r for r in ratios if not 0 < r < 1]:
        raise ValueError(f"expected shares above 0 and below 1, got {wrong}")
    if len(set(ratios)) < len(ratios):
        raise ValueError(f"each ratio once, got {list(ratios)}")
    return ratios


Ratios = Annotated[tuple[float, ...], Field(min_length=1), AfterValidator(_shares)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Corpora(_Section):
    """What all corpora have in common; the words are those of `cdgen generate`.

    Numbers that a recipe leaves out follow from the text (sizes.py).
    """

    prompt_tokens: int = Field(default=20, ge=1, lt=1 << 24)
    num_sequences: int = Field(ge=1, lt=1 << 31)  # per prompt
    max_new_tokens: int = Field(ge=1, lt=1 << 24)
    on_eos: Literal["stop", "continue"] = "stop"
    masked_score: float | None = Field(default=None, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**64)


class Arm(_Section):
    """One way of writing a corpus.

    `contrast` is the paper's lambda: log p_GOOD - lambda log p_BAD. `beta` is the strength in the
    form of O'Brien & Lewis 2023, (1 + beta) log p_GOOD - beta log p_BAD, which is the same score
    for lambda = beta / (1 + beta) at the temperature 1 / (1 + beta).
    """

    strategy: Literal["vanilla", "plausible", "cd"]
    bad: str | None = None  # step:N, gap:G, small:NAME, or layers:N and others of --bad
    contrast: float | None = Field(default=None, ge=0)
    beta: float | None = Field(default=None, gt=0)
    alpha: float | None = Field(default=None, ge=0, le=1)
    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    ratios: Ratios | None = None  # instead of those of `mixture`

    @field_validator("bad")
    @classmethod
    def _bad_is_known(cls, value: str | None) -> str | None:
        if value is not None:
            parse_bad_choice(value)
        return value

    @model_validator(mode="after")
    def _fields_fit_the_strategy(self) -> Self:
        contrasts = {"bad": self.bad, "contrast": self.contrast, "beta": self.beta}
        given = [name for name, value in contrasts.items() if value is not None]
        if self.strategy == "cd" and self.bad is None:
            raise ValueError("strategy cd needs `bad`: step:N, gap:G, small:NAME or a --bad")
        if self.strategy != "cd" and given:
            raise ValueError(f"{', '.join(given)}: only for strategy cd")
        if self.contrast is not None and self.beta is not None:
            raise ValueError("contrast and beta are two forms of one number: give one")
        if self.strategy == "vanilla" and self.alpha is not None:
            raise ValueError("alpha: strategy vanilla has no plausible set; use `plausible`")
        return self


class Mixture(_Section):
    """How much of a student's training is synthetic, and how its text is cut.

    `rounding: paper` trains on int(16 ratio) / 16, as the released code of Ulm et al. 2025 does
    with its micro-batches of 16: "30 %" is 25 %. `false_ends` puts an end-of-text after rows that
    were cut off, as theirs does.
    """

    ratios: Ratios
    mode: Literal["replace", "add"] = "replace"
    rounding: Literal["exact", "paper"] = "exact"
    false_ends: bool = False

    def trained(self, ratio: float) -> float:
        """Return the share of synthetic text in training for a nominal ratio."""
        return int(_PAPER_BATCH * ratio) / _PAPER_BATCH if self.rounding == "paper" else ratio


class Evaluation(_Section):
    """The tasks, by the names of their folders in `data`, and the checkpoint that they judge.

    `perplexity` needs no folder: it is measured on the text that the base run holds out.
    """

    tasks: tuple[str, ...] = Field(default=("perplexity",), min_length=1)
    data: Path = Path(".")  # below --data: a folder of tasks, or a .tar archive of one
    checkpoint: Literal["last", "validation", "paper"] = "last"
    compat: Literal["default", "babylm2025", "paper"] = "default"


class Rates(_Section):
    """Tokens per second to estimate times with, instead of measuring: for another machine."""

    training: float = Field(gt=0)  # of one run of the base model
    generation: float = Field(gt=0)  # new tokens of GOOD and BAD
    evaluation: float = Field(gt=0)
    start: float = Field(default=10.0, ge=0)  # seconds that a stage takes to begin
    machine: str  # which, and where the rates come from


class RunRecipe(_Section):
    """A whole experiment."""

    name: str
    base: Recipe  # of `cdgen train`; without bad_gap and synthetic, which `run` decides
    smaller: dict[str, ModelShape] = {}  # models to take BAD from, trained like the base run
    # `best`, the checkpoint of least validation loss, or step:N.
    good: Literal["best"] | int = "best"
    corpora: Corpora
    arms: dict[str, Arm] = Field(min_length=1)
    mixture: Mixture
    seeds: tuple[Seed, ...] = Field(min_length=1)
    evaluation: Evaluation = Evaluation()
    paper: bool = False  # every choice of _PAPER
    rates: Rates | None = None

    @model_validator(mode="before")
    @classmethod
    def _paper_decides(cls, fields: Any) -> Any:
        """Fill in what `paper: true` stands for. Raises ValueError if the recipe says otherwise."""
        if not isinstance(fields, Mapping) or fields.get("paper") is not True:
            return fields
        filled, against = dict(fields), []
        for section, choices in _PAPER.items():
            given = filled.get(section, {})
            if isinstance(given, Mapping):  # otherwise its own error is clearer
                wrong = [name for name, value in choices.items() if given.get(name, value) != value]
                against += [f"{section}.{name}: {given[name]}" for name in wrong]
                filled[section] = {**given, **choices}
        if against:
            raise ValueError(f"paper: true does not go together with {', '.join(against)}")
        return filled

    @model_validator(mode="after")
    def _rounding_leaves_something(self) -> Self:
        found = {ratio for arm in self.arms.values() for ratio in self.ratios_of(arm)}
        if none := sorted(ratio for ratio in found if not self.mixture.trained(ratio)):
            raise ValueError(f"mixture.rounding: paper makes 0 of {none}; 1/16 is the least")
        return self

    def ratios_of(self, arm: Arm) -> tuple[float, ...]:
        """Return the shares of synthetic text that the students of an arm are trained on."""
        return self.mixture.ratios if arm.ratios is None else arm.ratios

    @field_validator("good", mode="before")
    @classmethod
    def _good_is_a_step(cls, value: Any) -> Any:
        return value if value == "best" or isinstance(value, int) else parse_step(str(value))

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"each seed once, got {list(seeds)}")
        return seeds

    @field_validator("arms", "smaller")
    @classmethod
    def _names_can_be_folders(cls, named: Mapping[str, Any]) -> Mapping[str, Any]:
        if wrong := [name for name in named if not _NAME.fullmatch(name) or name == BASELINE]:
            raise ValueError(
                f"{', '.join(wrong)}: expected names of letters, digits, '.', '_' and '-', and not"
                f" {BASELINE}, which every experiment has"
            )
        return named
