"""The file in which `cdgen train --select-pair` names GOOD and BAD."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdgen.errors import ModelError, UsageError
from cdgen.settings import read_yaml

Kind = Literal["early", "small", "dropout"]  # of a BAD


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
    from cdgen.checkpoints.pair import BadSource, parse_bad

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
