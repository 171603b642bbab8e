"""A run's folder: who may write in it, and what it records of the recipe and all that it names.

OUT/recipe.json is written once everything that the recipe names could be read, so a recipe that is
refused leaves the folder free. What decides no weight may change later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from safetensors import SafetensorError

from cdgen.errors import PlanMismatch, StorageError
from cdgen.storage import canonical_json, lock, temporary_of, write_atomic
from cdgen.train.config import Recipe
from cdgen.train.data.sources import source_sha256
from cdgen.train.data.synthetic import manifest_sha256
from cdgen.train.data.tokenizer import tokenizer_identity
from cdgen.train.model import read_config

_NAME, _LOCK, _PROMPTS = "recipe.json", ".lock", "prompts.jsonl"
_DECIDES_NO_WEIGHT: Any = {
    "name": True,
    "bad_gap": True,
    "sources": {"__all__": {"licence"}},
    "training": {"tensorboard", "milestones"},
    "synthetic": {"corpora": {"__all__": {"path"}}},  # the manifest's hash counts
}
_SHOWN = 5
_OF_TORCH_SAVE = "inline_container"  # its file in C++: it does not say what the system said


class Record(Recipe):
    """OUT/recipe.json: a field that an older cdgen did not write has its default."""

    source_sha256: dict[str, str]
    manifests: dict[str, str] = Field(default_factory=dict)  # sha256, by corpus
    tokenizer_sha256: str | None = None  # where the recipe names an existing one
    architecture: dict[str, Any] | None = None  # where it names a config: its content


def record_of(recipe: Recipe, data_dir: Path) -> Record:
    """Raises UsageError for what the recipe names and cannot be read."""
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
    """None where there is none. Raises StorageError for one that cannot be used."""
    path = out / _NAME
    if not path.exists():
        return None
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise StorageError(
            f"{path} is damaged, or of another version of cdgen ({where}: {first['msg']}): restore"
            " it, or train into another --out"
        ) from error


def require_same(out: Path, wanted: Record) -> None:
    """Raises PlanMismatch where `out` holds a run of other weights, or what no run has left."""
    found = read_record(out)
    if found is None:
        _require_ours(out)
    elif changed := _differences(_deciding(found), _deciding(wanted)):
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise PlanMismatch(
            f"{out} holds a run of another recipe or other text: {'; '.join(changed[:_SHOWN])}"
            f"{more}. Use the earlier ones to go on with it, or name another --out"
        )


def write_record(out: Path, record: Record) -> None:
    content = canonical_json(record.model_dump(mode="json"))
    path = out / _NAME
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)


def _require_ours(out: Path) -> None:
    passing = {temporary_of(out / name).name for name in (_NAME, _PROMPTS)}
    kept = {_LOCK, _PROMPTS, "tokens", *passing}  # of a recipe that was refused
    if foreign := sorted({path.name for path in out.iterdir()} - kept):
        raise PlanMismatch(
            f"--out {out} is not empty (it holds {foreign[0]}) and has no {_NAME} of a run: choose"
            " an empty or a new folder"
        )


def _deciding(record: Record) -> dict[str, Any]:
    """What decides the weights."""
    fields = record.model_dump(mode="json", exclude=_DECIDES_NO_WEIGHT)
    fields["split_seed"] = record.dealing_seed
    for name in ("tokenizer", "model"):  # of existing ones the content counts, wherever they lie
        if isinstance(getattr(record, name), Path):
            fields[name] = "(existing)"
    return _flat(fields)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = [*old, *(name for name in new if name not in old)]
    pairs = ((name, old.get(name), new.get(name)) for name in names)
    return [f"{name}: was {_brief(a)}, now {_brief(b)}" for name, a, b in pairs if a != b]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        parts = [(str(number), part) for number, part in enumerate(value)]
    else:
        return {name: value}
    flat: dict[str, Any] = {}
    for key, part in parts:
        flat |= _flat(part, f"{name}.{key}" if name else key)
    return flat


def _brief(value: Any) -> str:
    text = "(absent)" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


@contextmanager
def hold_folder(out: Path) -> Iterator[None]:
    """Be the only run that writes into `out`; leave no trace where nothing was recorded.

    Raises StorageError at once if another run holds it.
    """
    busy = f"another run is writing into {out}: wait for it, stop it, or name another --out"
    absent = [folder for folder in (out, *out.parents) if not folder.exists()]
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
    """Turns what the operating system refuses into a StorageError."""
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
