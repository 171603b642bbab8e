"""One Hugging Face checkpoint folder, checked in full before any of its weights is used.

Only JSON and safetensors are read: nothing in a checkpoint is unpickled or executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.checkpoints.config_checks import require_loadable
from cdgen.checkpoints.other_folders import adapter_note, describe_folder
from cdgen.checkpoints.safetensors_header import TensorInfo, cut_short, read_header
from cdgen.errors import ModelError

# Far above any real model's, and far below what would exhaust memory.
_MAX_CONFIG_BYTES = 4 << 20
_MAX_INDEX_BYTES = 100 << 20
_READ_BYTES = 1 << 20

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"  # of the shards, if the weights are in several files

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}
# Trainers leave these beside the weights, in the same format.
_TRAINER_STATE = ("training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states")


@dataclass(frozen=True)
class Checkpoint:
    """A folder that passed every check; its weights are still on disk."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    sha256: str  # of tensors, config.json and tokenizer.json, whatever the path and the sharding
    weights_sha256: str  # of the tensors alone
    notes: tuple[str, ...] = ()  # lines for the user about what lies in the folder


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn an OSError while `folder` is read into a ModelError that names the file."""
    try:
        yield
    except OSError as error:
        name = error.filename or folder
        raise ModelError(f"{name} cannot be read: {error.strerror or error}") from error


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check every file of a checkpoint and hash its content. Raises ModelError.

    Tensors are streamed, never held in memory, so that a model of any size can be checked.
    """
    with reading(folder):
        if not folder.exists():
            raise ModelError(
                f"{folder}: no such folder. Models are not fetched from the hub: download one first"
                " (hf download NAME --local-dir DIR) and give that folder"
            )
        if not (folder / "config.json").is_file() and (text := describe_folder(folder)):
            raise ModelError(text)
        if not folder.is_dir():
            raise ModelError(f"{folder} is a file: give the checkpoint folder that holds it")
        _require_file(folder / "config.json", "a checkpoint in Hugging Face layout has one")
        config = read_json(folder / "config.json")
        require_loadable(folder, config)
        tensors = _read_tensor_table(folder)
        _require_file(
            folder / "tokenizer.json",
            "save the model's fast tokenizer there (AutoTokenizer...save_pretrained)",
        )
        sha256, weights_sha256 = _identity(folder, tensors)
        notes = tuple(filter(None, [adapter_note(folder)]))
        return Checkpoint(folder, config, tensors, sha256, weights_sha256, notes)


def read_json(path: Path, max_bytes: int = _MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Return the JSON object in `path`. Raises ModelError if it is too large or not an object."""
    size = path.stat().st_size
    if size > max_bytes:
        raise ModelError(
            f"{path} is too large to be what its name says: {size} bytes, expected at most"
            f" {max_bytes}; fetch or save it again"
        )
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON ({error}): fetch or save it again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def _require_file(path: Path, advice: str) -> None:
    if not path.is_file():
        raise ModelError(f"{path.parent} has no {path.name}: {advice}")


def _read_tensor_table(folder: Path) -> dict[str, TensorInfo]:
    # transformers prefers them in the same order.
    single, index = folder / _WEIGHTS, folder / _INDEX
    if single.is_file():
        tensors = read_header(single)
    elif index.is_file():
        tensors = _read_shards(index)
    else:
        raise ModelError(_why_no_weights(folder))
    if not tensors:
        raise ModelError(f"{folder} has weight files without a single tensor: save it again")
    return tensors


def _why_no_weights(folder: Path) -> str:
    if text := describe_folder(folder):
        return text
    pickles = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in _PICKLE_SUFFIXES and not path.name.startswith(_TRAINER_STATE)
    )
    if not pickles:
        return f"{folder} has no weights: expected {_WEIGHTS} or {_INDEX}"
    call = f"M.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    return (
        f"{folder} has only pickle weights ({pickles[0]}), which can run code when loaded, so they"
        " are refused. Convert them to safetensors once, if you trust their author:\n"
        f'  python -c "from transformers import AutoModelForCausalLM as M; {call}"'
    )


def _read_shards(index: Path) -> dict[str, TensorInfo]:
    """Return the tensors of all shards, which must be those of the index.

    `metadata.total_size` is not compared: writers count it in several ways, and every shard is
    held to its own header.
    """
    content = read_json(index, _MAX_INDEX_BYTES)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise ModelError(f"{index}: weight_map must map each tensor to its file; save it again")
    tensors: dict[str, TensorInfo] = {}
    for name in sorted(set(weight_map.values())):
        for tensor, info in read_header(_shard_path(index, name)).items():
            if tensor in tensors:
                first = tensors[tensor].file.name
                raise ModelError(
                    f"{index}: {tensor!r} is in {first!r} and again in {name!r}; save it again"
                )
            tensors[tensor] = info
    elsewhere = {t for t, name in weight_map.items() if not _is_in(tensors.get(t), name)}
    for tensor in sorted(elsewhere - _spared(index.parent, elsewhere - tensors.keys())):
        name = weight_map[tensor]
        raise ModelError(f"{index} lists {tensor!r} in {name!r}, which lacks it; save it again")
    for tensor in tensors.keys() - weight_map.keys():
        raise ModelError(
            f"{tensors[tensor].file} holds {tensor!r}, which {index.name} lacks; save it again"
        )
    return tensors


def _is_in(found: TensorInfo | None, name: str) -> bool:
    return found is not None and found.file.name == name


def _spared(folder: Path, absent: set[str]) -> set[str]:
    """Return the tensors of an index that no shard needs to hold: config.json ties each to another
    one, and writers save one of two that are the same."""
    if not absent:
        return set()
    from cdgen.checkpoints.pretrained import tied_tensors  # brings torch

    try:
        return absent & tied_tensors(folder)
    except ModelError:  # not a model of transformers: nothing is known to be tied
        return set()


def _shard_path(index: Path, name: str) -> Path:
    # Check the name only: in the hub's cache, a plain name is a link to a blob in another folder.
    if name in ("", "..") or Path(name).name != name:
        raise ModelError(
            f"{index} names {name!r}: a shard must be a plain file name in the same folder"
        )
    path = index.parent / name
    _require_file(path, f"{index.name} lists it; fetch the missing file")
    return path


def _identity(folder: Path, tensors: dict[str, TensorInfo]) -> tuple[str, str]:
    """Hash the tensors (name, dtype, shape and content, sorted by name) and the two JSON files, and
    the tensors alone."""
    ordered = sorted(tensors.items())
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool:  # hashing and reading both release the GIL
        contents = pool.map(_hash_tensor, (info for _, info in ordered))
        for (name, info), content in zip(ordered, contents, strict=True):
            digest.update(json.dumps([name, info.dtype, info.shape]).encode() + content)
    weights = digest.hexdigest()
    for name in ("config.json", "tokenizer.json"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest(), weights


def _hash_tensor(info: TensorInfo) -> bytes:
    digest = hashlib.sha256()
    with info.file.open("rb") as file:
        file.seek(info.start)
        left = info.nbytes
        while left:
            chunk = file.read(min(left, _READ_BYTES))
            if not chunk:
                end = info.start + info.nbytes
                raise cut_short(info.file, end, end - left)
            digest.update(chunk)
            left -= len(chunk)
    return digest.digest()
