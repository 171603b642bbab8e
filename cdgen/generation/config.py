"""Settings of `cdgen generate`, from flags, a YAML file and a pair file, checked in one place.

Those that decide the sequences are a record of their own, which `cdgen.load_pair` takes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cdgen.checkpoints.pair_file import read_pair_file, resolve_model
from cdgen.engine.memory import SLOT_MULTIPLE
from cdgen.settings import read_yaml, validated


class SequenceConfig(BaseModel):
    """The settings that decide the sequences, together with the prompts. Each field is a flag of
    `cdgen generate` with the same name and default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    good: Path
    bad: str = "none"
    strategy: Literal["cd", "vanilla", "plausible"] = "cd"
    contrast: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    alpha: float = Field(default=0.1, ge=0, le=1)
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0, lt=2**31)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    masked_score: float | None = Field(default=None, allow_inf_nan=False)
    bos: Literal["auto", "always", "never"] = "auto"
    prompt_tokens: int = Field(default=20, ge=1, lt=1 << 24)
    num_sequences: int = Field(default=8, ge=1, lt=1 << 31)
    max_new_tokens: int = Field(default=400, ge=1, lt=1 << 24)
    on_eos: Literal["stop", "continue"] = "stop"
    seed: int = Field(default=0, ge=0, lt=2**64)
    slots: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    kv_dtype: Literal["auto", "float32", "bfloat16", "int8", "fp8"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    logprobs: bool = False

    @field_validator("slots", "range_size", "workers", mode="before", check_fields=False)
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        """Convert a number that the command line passes as text."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.slots != "auto" and self.slots % SLOT_MULTIPLE:
            raise ValueError(f"--slots: expected a multiple of {SLOT_MULTIPLE}, got {self.slots}")
        if self.strategy == "cd" and self.bad == "none":
            raise ValueError(
                "--strategy cd needs --bad: a checkpoint folder, layers:N, window:N or dropout:P"
                " (to sample from GOOD alone: --strategy vanilla)"
            )
        return self


class DocumentConfig(SequenceConfig):
    """The settings that decide the sequences, with the documents that they continue."""

    prompts: str
    text_column: str = "text"


class GenerateConfig(DocumentConfig):
    """The settings of a run that writes a corpus: also where it is written, by whom, and what
    happens when something goes wrong."""

    out: Path
    format: Literal["parquet", "jsonl"] = "parquet"
    shard: str = "0/1"
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    ray: str | None = None
    ray_cpus: int = Field(default=1, ge=1)
    range_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    max_quarantined: int = Field(default=0, ge=0)
    grace: int = Field(default=20, ge=0)  # seconds
    watchdog: int = Field(default=1800, ge=0)  # seconds


def generate_config(
    flags: Mapping[str, Any], file: Path | None, pair: Path | None = None
) -> GenerateConfig:
    """Return the settings: flags override the YAML file, which overrides the pair file and the
    defaults.

    Raises UsageError for bad values, ModelError if the pair file names a folder that does not
    exist.
    """
    return validated(GenerateConfig, _given(flags, file, pair))


def preview_config(
    flags: Mapping[str, Any], file: Path | None, pair: Path | None = None
) -> DocumentConfig:
    """Return the settings of a preview, like `generate_config`. Those that only say how a corpus is
    written are passed over."""
    of_a_corpus = GenerateConfig.model_fields.keys() - DocumentConfig.model_fields.keys()
    values = _given(flags, file, pair)
    return validated(DocumentConfig, {n: v for n, v in values.items() if n not in of_a_corpus})


def _given(flags: Mapping[str, Any], file: Path | None, pair: Path | None) -> dict[str, Any]:
    """Return what the user has set, by the names of the fields."""
    values = read_yaml(file) if file else {}
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    values |= {name: value for name, value in flags.items() if value is not None}
    if pair:
        chosen = read_pair_file(pair)
        for role, text in (("good", chosen.good), ("bad", chosen.bad)):
            if role not in values:
                values[role] = resolve_model(text, role, pair)
    return values
