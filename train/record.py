"""The folder of a run: who may write in it, and the record of the recipe and of everything it
names.

OUT/recipe.json is written once everything that the recipe names could be read, so a refused recipe
leaves the folder free. Fields that decide no weight may change later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from safetensors import SafetensorError

from cdgen.contained import links_below, require_contained
from cdgen.differences import differences
from cdgen.errors import PlanMismatch, StorageError
from cdgen.settings import first_problem
from cdgen.storage import canonical_json, lock, temporary_of, write_atomic
from cdgen.train.config import Recipe
from cdgen.train.data.sources import source_sha256
from cdgen.train.data.synthetic import manifest_sha256
from cdgen.train.data.tokenizer import tokenizer_identity
from cdgen.train.model import read_config

_NAME, _LOCK = "recipe.json", ".lock"
_TEXTS = ("prompts.jsonl", "validation.jsonl")
_DECIDES_NO_WEIGHT: Any = {
    "name": True,
    "bad_gap": True,
    "sources": {"__all__": {"licence"}},
    "training": {"tensorboard", "milestones"},
    "synthetic": {"corpora": {"__all__": {"path"}}},  # the manifest's hash counts
}
_SHOWN = 5
_OF_TORCH_SAVE = "inline_container"  # raised by C++ without the system's reason


class Record(Recipe):
    """OUT/recipe.json. A field that an older cdgen did not write has its default."""

    source_sha256: dict[str, str]
    manifests: dict[str, str] = Field(default_factory=dict)  # sha256, by corpus
    tokenizer_sha256: str | None = None  # if the recipe names an existing one
    architecture: dict[str, Any] | None = None  # if it names a config: its content


def record_of(recipe: Recipe, data_dir: Path) -> Record:
    """Return the record of a recipe. Raises UsageError if something that the recipe names cannot be
    read."""
    corpora = recipe.synthetic.corpora if recipe.synthetic else ()
    found: dict[str, Any] = {
        "source_sha256": {s.name: source_sha256(s, data_dir) for s in recipe.sources},
        "manifests": {corpus.name: manifest_sha256(corpus.path) for corpus in corpora},
    }
    if isinstance(recipe.tokenizer, Path):
        found["tokenizer_sha256"] = tokenizer_identity(recipe.tokenizer)
    if isinstance(recipe.model, Path):
        config = read_config(recipe.model, recipe.block_size).to_dict()
        of_no_matter = ("_name_or_path", "transformers_version")
        found["architecture"] = {k: v for k, v in config.items() if k not in of_no_matter}
    return Record.model_validate({**recipe.model_dump(), **found})


def read_record(out: Path) -> Record | None:
    """Read the record, or return None if there is none. Raises StorageError if it is not usable."""
    path = out / _NAME
    if not path.exists():
        return None
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StorageError(
            f"{path} is damaged, or of another version of cdgen ({first_problem(error)}): restore"
            " it, or train into another --out"
        ) from error


def require_same(out: Path, wanted: Record) -> None:
    """Raise PlanMismatch if `out` holds a run with other weights, or files that no run has
    written."""
    found = read_record(out)
    if found is None:
        _require_ours(out)
    elif changed := differences(_deciding(found), _deciding(wanted)):
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise PlanMismatch(
            f"{out} holds a run of another recipe or other text: {'; '.join(changed[:_SHOWN])}"
            f"{more}. Use the earlier ones to resume it, or name another --out"
        )


def write_record(out: Path, record: Record) -> None:
    content = canonical_json(record.model_dump(mode="json"))
    path = out / _NAME
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)


def _require_ours(out: Path) -> None:
    passing = {temporary_of(out / name).name for name in (_NAME, *_TEXTS)}
    kept = {_LOCK, *_TEXTS, "tokens", *passing}  # left by a recipe that was refused
    if foreign := sorted({path.name for path in out.iterdir()} - kept):
        raise PlanMismatch(
            f"--out {out} is not empty (it holds {foreign[0]}) and has no {_NAME} of a run: choose"
            " an empty or a new folder"
        )


def _deciding(record: Record) -> dict[str, Any]:
    """Return the fields that decide the weights."""
    fields = record.model_dump(mode="json", exclude=_DECIDES_NO_WEIGHT)
    fields["split_seed"] = record.holdout_seed
    for name in ("tokenizer", "model"):  # the content of an existing one counts, not its place
        if isinstance(getattr(record, name), Path):
            fields[name] = "(existing)"
    return fields


@contextmanager
def hold_folder(out: Path) -> Iterator[None]:
    """Be the only run that writes into `out`; remove the folder again if nothing was recorded.

    Raises StorageError at once if another run holds it, or if something in it leads out of it.
    """
    busy = f"another run is writing into {out}: wait for it, stop it, or name another --out"
    absent = [folder for folder in (out, *out.parents) if not folder.exists()]
    require_contained(out, links_below(out))
    try:
        with lock(out / _LOCK, busy):
            try:
                yield
            finally:
                if not (out / _NAME).exists():
                    (out / _LOCK).unlink(missing_ok=True)
    finally:
        for folder in absent:
            with suppress(OSError):  # not empty
                folder.rmdir()


@contextmanager
def disk_trouble(out: Path) -> Iterator[None]:
    """Turn errors of the operating system into a StorageError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        first = (getattr(error, "strerror", None) or str(error)).split("\n")[0]
        if isinstance(error, RuntimeError):
            if _OF_TORCH_SAVE not in first:
                raise
            first = f"a checkpoint could not be written or read; is the disk full? ({first})"
        raise StorageError(
            f"{getattr(error, 'filename', None) or out}: {first}. The checkpoints before are kept:"
            " remove the cause, then run the same command again."
        ) from error
