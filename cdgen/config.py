"""What `cdgen generate` may be told, by flags, a YAML file or a pair file, checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cdgen.errors import ModelError, UsageError

SLOT_MULTIPLE = 16  # row counts at which a matrix product gives each row the same bits

Model = TypeVar("Model", bound=BaseModel)
Kind = Literal["early", "small", "dropout"]  # of a BAD


class GenerateConfig(BaseModel):
    """Every field is a flag of `cdgen generate` of the same name, with its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    good: Path
    bad: str = "none"
    prompts: str
    out: Path
    format: Literal["parquet", "jsonl"] = "parquet"
    strategy: Literal["cd", "vanilla", "plausible"] = "cd"
    contrast: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    alpha: float = Field(default=0.1, ge=0, le=1)
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0, lt=2**31)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    prompt_tokens: int = Field(default=20, ge=1)
    num_sequences: int = Field(default=8, ge=1)
    max_new_tokens: int = Field(default=400, ge=1)
    on_eos: Literal["stop", "continue"] = "stop"
    seed: int = Field(default=0, ge=0, lt=2**64)
    slots: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    kv_dtype: Literal["auto", "fp8"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    shard: str = "0/1"
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    range_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    logprobs: bool = False
    max_quarantined: int = Field(default=0, ge=0)

    @field_validator("slots", "range_size", "workers", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        """The command line gives text: a number in it is meant as one."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.slots != "auto" and self.slots % SLOT_MULTIPLE:
            raise ValueError(f"--slots: expected a multiple of {SLOT_MULTIPLE}, got {self.slots}")
        if self.strategy == "cd" and self.bad == "none":
            raise ValueError(
                "--strategy cd needs --bad: a checkpoint folder or dropout:P"
                " (to sample from GOOD alone: --strategy vanilla)"
            )
        return self


class OtherBad(BaseModel):
    """Another BAD for the GOOD of a pair file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bad: str
    kind: Kind
    step: int
    parameters: int
    loss: float | None  # validation, nats/token; not known for dropout


class PairFile(BaseModel):
    """What `cdgen train --select-pair` writes. Relative paths are relative to the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    good: str = Field(min_length=1)
    bad: str = Field(min_length=1)
    alternatives: tuple[OtherBad, ...] = ()  # for the reader


def generate_config(
    flags: Mapping[str, Any], file: Path | None, pair: Path | None = None
) -> GenerateConfig:
    """The flags that were given, over the YAML file's, over the pair file's, over the defaults.

    Raises UsageError for bad values, ModelError where the pair file names a folder that is not
    there.
    """
    values = read_yaml(file) if file else {}
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    values |= {name: value for name, value in flags.items() if value is not None}
    if pair:
        chosen = read_pair_file(pair)
        for role, text in (("good", chosen.good), ("bad", chosen.bad)):
            if role not in values:
                values[role] = _located(text, role, pair)
    return validated(GenerateConfig, values)


def located_pair(file: Path) -> tuple[Path, str]:
    """GOOD's folder and what --bad would say, of a pair file. Raises as `generate_config` does."""
    chosen = read_pair_file(file)
    return Path(_located(chosen.good, "good", file)), _located(chosen.bad, "bad", file)


def read_pair_file(path: Path) -> PairFile:
    """Raises UsageError: it cannot be read, lacks a key, or has one too many."""
    try:
        return PairFile.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path}: expected a pair file (good, bad, alternatives), found {key}:"
            f" {first['msg'][0].lower()}{first['msg'][1:]}; correct it, or write it again with"
            " cdgen train --select-pair"
        ) from error


def _located(text: str, role: str, file: Path) -> str:
    """`text` of a pair file with its path, if it is one, made absolute."""
    from cdgen.pair import BadSource, parse_bad

    source = parse_bad(text) if role == "bad" else BadSource("folder", Path(text))
    if source.folder is None:
        return text
    folder = (file.parent / source.folder).absolute()
    if not folder.is_dir():
        raise ModelError(
            f"{file}: {role}: {folder} is no folder (relative paths are relative to the file):"
            f" correct it there, or give --{role}"
        )
    return str(folder)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises UsageError where there is none."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected `name: value` lines, got {type(values).__name__}")
    return values


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """`values` as a `model`; raises UsageError with the first field that does not fit."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error" and not first["loc"]:
            raise UsageError(str(first["ctx"]["error"])) from error
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        if first["type"] == "missing":
            raise UsageError(f"{flag} is missing: give the flag or put it into --config") from error
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{flag[2:]} in --config is no option of this command") from error
        message = first["msg"][0].lower() + first["msg"][1:]
        raise UsageError(f"{flag}: {message}, got {first['input']!r}") from error
