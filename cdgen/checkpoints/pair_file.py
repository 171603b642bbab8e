"""The file in which `cdgen train --select-pair` names GOOD and BAD."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdgen.checkpoints.bad_source import BadSource, MadeOfGood, parse_bad
from cdgen.errors import ModelError, UsageError
from cdgen.settings import problems, read_yaml

Kind = Literal["early", "small"] | MadeOfGood  # how a BAD is worse than its GOOD


class OtherBad(BaseModel):
    """Another BAD for the GOOD of a pair file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bad: str
    kind: Kind
    step: int
    parameters: int
    loss: float | None  # validation loss in nats per token; None if it is not known


class PairFile(BaseModel):
    """The content of a pair file. Relative paths in it are relative to the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    good: str = Field(min_length=1)
    bad: str = Field(min_length=1)
    alternatives: tuple[OtherBad, ...] = ()  # shown to the user, never used


def read_pair_file(path: Path) -> PairFile:
    """Read a pair file.

    Raises UsageError if it cannot be read, lacks a key or has one that does not belong there.
    """
    try:
        return PairFile.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UsageError(
            f"{path}: expected a pair file (good, bad, alternatives), found"
            f" {'; '.join(problems(error))};"
            " correct it, or write it again with cdgen train --select-pair"
        ) from error


def resolve_pair(file: Path) -> tuple[Path, str]:
    """Return the values of `--good` and `--bad` that a pair file gives.

    Raises UsageError if the file is not valid, ModelError if a folder in it does not exist.
    """
    chosen = read_pair_file(file)
    return Path(resolve_model(chosen.good, "good", file)), resolve_model(chosen.bad, "bad", file)


def resolve_model(text: str, role: str, file: Path) -> str:
    """Turn the entry `text` of a pair file into the value of `--good` or `--bad`, as `role` says.

    A path becomes absolute; `dropout:P`, `layers:N`, `window:N` and `none` stay as they are. Raises
    UsageError if `text` is not a valid `--bad`, ModelError if the folder does not exist.
    """
    source = parse_bad(text) if role == "bad" else BadSource("folder", Path(text))
    if source.folder is None:
        return text
    folder = (file.parent / source.folder).absolute()
    if not folder.is_dir():
        raise ModelError(
            f"{file}: {role}: {folder} is not a folder (relative paths are relative to the file):"
            f" correct it there, or give --{role}"
        )
    return str(folder)
